"""A vision-language model as the judge of edits: any image-text-to-text model of transformers, asked yes or no.

The answer is read from the scores of its first word, "yes" against "no": every picture gets an answer, one pass of the
model each, and nothing is drawn at random. Models that think aloud before they answer do not fit this; serve them
behind an endpoint (endpoint.py), where their text is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from singleinsert.errors import ModelError, first_line
from singleinsert.metrics.targets import Target

ASK = "{question} Answer with yes or no only."
FILES = "config.json, *.safetensors, preprocessor_config.json, tokenizer.json and, for chat models, the chat template"


class VisionLanguageJudge:
    """Judges by :attr:`Target.question`."""

    def __init__(self, model: str, device: torch.device | str = "cpu") -> None:
        """
        Args:
            model: hub id or folder. On CUDA it runs in bfloat16, else in float32.

        Raises:
            ModelError: one line: what cannot be loaded, and which files are needed.
        """
        from transformers import AutoModelForImageTextToText, AutoProcessor
        from transformers.utils import logging

        logging.disable_progress_bar()
        self.name = f"vlm:{model}"
        if not Path(model).is_dir() and (model.startswith((".", "/", "~")) or model.count("/") != 1):
            raise ModelError(f"no folder {model}: give a hub id or a folder with {FILES}")
        dtype = torch.bfloat16 if torch.device(device).type == "cuda" else torch.float32
        try:
            self._processor: Any = AutoProcessor.from_pretrained(model)
            loaded: Any = AutoModelForImageTextToText.from_pretrained(model, use_safetensors=True, dtype=dtype)
            self._tokenizer = self._processor.tokenizer
        except Exception as problem:  # transformers and the hub have errors of their own
            raise ModelError(
                f"{model} cannot be loaded as an image-text-to-text model, which needs {FILES}: {first_line(problem)}"
            ) from problem
        self._model = loaded.to(device).eval()
        self._yes, self._no = self._first_tokens("yes"), self._first_tokens("no")
        if not self._yes or not self._no or set(self._yes) & set(self._no):
            raise ModelError(f"{model}: its tokenizer cannot tell yes from no by their first tokens")

    def __call__(self, pictures: Sequence[Image.Image], targets: Sequence[Sequence[Target]]) -> list[list[bool]]:
        return [
            [self.probability(picture, target.question) > 0.5 for target in wanted]
            for picture, wanted in zip(pictures, targets, strict=True)
        ]

    @torch.no_grad()
    def probability(self, picture: Image.Image, question: str) -> float:
        """That the answer is yes, of yes and no alone, in [0, 1]."""
        inputs = self._inputs(picture.convert("RGB"), ASK.format(question=question))
        out = self._model.generate(
            **inputs, max_new_tokens=1, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
        scores = out.logits[0][0].double().log_softmax(-1)
        return float(torch.sigmoid(self._weight(scores, self._yes) - self._weight(scores, self._no)))

    def _inputs(self, picture: Image.Image, text: str) -> dict[str, Any]:
        if getattr(self._processor, "chat_template", None):
            content = [{"type": "image", "image": picture}, {"type": "text", "text": text}]
            inputs = self._processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True,
                return_tensors="pt",
            )  # fmt: skip
        else:  # models that complete a text (BLIP, PaliGemma), with their picture's place where they have one
            place = getattr(self._processor, "image_token", None)
            text = f"{place}{text}" if isinstance(place, str) else f"Question: {text} Answer:"
            inputs = self._processor(images=picture, text=text, return_tensors="pt")
        return {k: v.to(self._model.device, self._model.dtype) if v.is_floating_point() else v.to(self._model.device)
                for k, v in inputs.items()}  # fmt: skip

    def _first_tokens(self, word: str) -> list[int]:
        """First tokens of every way to write the word, which are no other word's beginning."""
        out = []
        for text in (word, word.capitalize(), word.upper(), f" {word}", f" {word.capitalize()}"):
            ids = self._tokenizer(text, add_special_tokens=False)["input_ids"]
            read = self._tokenizer.decode(ids[:1]).strip().lower() if ids else ""
            if read == word and ids[0] not in out:
                out.append(ids[0])
        return out

    @staticmethod
    def _weight(scores: Tensor, tokens: list[int]) -> Tensor:
        return scores[torch.tensor(tokens, device=scores.device)].logsumexp(0)
