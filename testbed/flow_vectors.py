"""mini-flow's concepts with their vector at the language model's OUTPUT: nothing stands between it and the denoiser.

    python -m testbed.flow_vectors      testbed/flow.toml's rows stage1 and stage2; any flag of the evaluation's `run`

No client can load such a vector: each of them writes embeddings into the lookup. It is here for the comparison alone.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from unittest.mock import patch

import torch

from singleinsert.data.subject import Frame
from singleinsert.evaluate.__main__ import main as evaluate
from singleinsert.models.condition import Condition
from singleinsert.models.families.flux2 import TAPS, Flux2Klein
from singleinsert.models.family import Embedding, Prompt

FOLDER = Path("output") / "evaluation" / "flow-output"


def output_widths(family: Flux2Klein) -> dict[str, int]:
    """Of the states that the denoiser is told: three layers side by side."""
    return {"text_encoder": len(TAPS) * family.text_encoder.config.hidden_size}


def encode(
    family: Flux2Klein, prompt: Prompt, vectors: Mapping[str, Embedding], frame: Frame | None = None
) -> Condition:
    """As ``Flux2Klein.encode``, but that a slot's state (3 d) is the concept's vector. The language model reads an
    embedding of zeros there."""
    width = family.text_encoder.config.hidden_size
    silent = {
        handle: {"text_encoder": torch.zeros(len(each["text_encoder"]), width)} for handle, each in vectors.items()
    }
    told = family.hidden_states(prompt, silent)
    states = torch.cat([told[tap] for tap in TAPS], dim=-1).clone()  # (1, L, 3 d)
    for slot in prompt.tokens["text_encoder"].slots:
        states[0, slot.position] = vectors[slot.placeholder]["text_encoder"][slot.vector].to(states)
    return Condition({"states": states})


def main() -> int:
    """The evaluation's `run`, with the family changed."""
    words = ["run", "--methods", "testbed/flow.toml", "--rows", "stage1,stage2", "--preset", "mini+plain"]
    words += ["--pretrained_model_name_or_path", "testbed/runs/mini-flow", "--resolution", "64"]
    words += ["--protocol", "testbed/protocol.toml"]
    # a cache of its own: nothing in a concept's key says where its vector stands
    words += ["--output_dir", str(FOLDER), "--cache", str(FOLDER / "cache")]
    with patch.multiple(Flux2Klein, embedding_widths=property(output_widths), encode=encode):
        return evaluate([*words, *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
