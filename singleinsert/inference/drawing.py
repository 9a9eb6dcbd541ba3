"""Ways to draw that only we have: WebUIs know none of them, so that what training makes must do without.

Both leave the layout to the base model, which knows layouts better than what was learnt from one picture.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from singleinsert.errors import InputError
from singleinsert.inference.prompts import ConceptName, slot
from singleinsert.models.condition import Condition
from singleinsert.models.family import Family

Callback = Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]]
"""diffusers' ``callback_on_step_end(pipeline, step, timestep, tensors) -> tensors``."""


@dataclass(frozen=True)
class Drawing:
    """How concepts act along the steps of a picture.

    Attributes:
        delay: share of the steps that are asked with the class word in the concept's place, the first ones (delayed
            subject conditioning, FastComposer, Xiao et al. 2023, section 4.3). 0: none.
        lora_fade: each LoRA of the denoiser counts ``((T - t) / T)^lora_fade`` of its weight. 0: its weight, always.
    """

    delay: float = 0.0
    lora_fade: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.delay < 1:
            raise InputError(f"a delay of {self.delay:g} cannot be: a share of the steps, from 0 to below 1, is meant")
        if not 0 <= self.lora_fade <= 8:
            raise InputError(f"a LoRA fade of {self.lora_fade:g} cannot be: a power from 0 to 8 is meant")

    def steps_of_class(self, steps: int) -> int:
        """How many of the first steps the class word is asked in."""
        return round(self.delay * steps)


PLAIN = Drawing()


def with_class_words(text: str, concepts: Sequence[ConceptName]) -> str:
    """A resolved prompt with each concept's class word in the place of its vectors; where the word stands behind them
    anyway, it is not said twice."""
    for i, concept in enumerate(concepts):
        own = re.escape(concept.class_word)
        text = re.sub(rf"{slot(i)}\s+(?={own}\b)", "", text)
        text = text.replace(slot(i), concept.class_word)
    return " ".join(text.split())


def switch_after(
    steps: int, model: Family, condition: Condition, negative: Condition, guided: bool, callback: Callback | None
) -> Callback:
    """A callback after whose ``steps``-th call the pipeline goes on with ``condition``.

    Args:
        condition, negative: b prompts each. guided: is there guidance?
        callback: is called as well, before.
    """
    wanted = model.pipeline_conditions(condition, negative)
    names = {"prompt_embeds": "prompt_embeds", "pooled_prompt_embeds": "add_text_embeds"}
    both = guided and model.guides_in_one_call
    later = {
        inside: torch.cat([wanted[f"negative_{name}"], wanted[name]]) if both else wanted[name]
        for name, inside in names.items()
        if name in wanted
    }

    def switch(pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        tensors = tensors if callback is None else callback(pipeline, step, timestep, tensors)
        return tensors | later if step + 1 == steps else tensors

    return switch
