"""A vision-language model as the judge of edits: any image-text-to-text model of transformers, asked yes or no.

The answer is read from the scores of its first word, "yes" against "no": every picture gets an answer, one pass of the
model each, and nothing is drawn at random. Models that think aloud before they answer do not fit this; serve them
behind an endpoint (endpoint.py), where their text is read.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image

from singleinsert.captions.local import LocalModel
from singleinsert.errors import ModelError
from singleinsert.metrics.targets import Target

ASK = "{question} Answer with yes or no only."
ANSWERS = ("yes", "no")


class VisionLanguageJudge:
    """Judges by :attr:`Target.question`."""

    def __init__(self, model: str, device: torch.device | str = "cpu") -> None:
        """
        Args:
            model: hub id or folder. On CUDA it runs in bfloat16, else in float32.

        Raises:
            ModelError: one line: what cannot be loaded, and which files are needed.
        """
        self.local = LocalModel(model, device)
        self.name = self.local.name
        if not self.local.can_tell_apart(ANSWERS):
            raise ModelError(f"{model}: its tokenizer cannot tell yes from no by their first tokens")

    def __call__(self, pictures: Sequence[Image.Image], targets: Sequence[Sequence[Target]]) -> list[list[bool]]:
        return [
            [self.probability(picture, target.question) > 0.5 for target in wanted]
            for picture, wanted in zip(pictures, targets, strict=True)
        ]

    def probability(self, picture: Image.Image, question: str) -> float:
        """That the answer is yes, of yes and no alone, in [0, 1]."""
        return float(self.local.scores(picture, ASK.format(question=question), ANSWERS).softmax(0)[0])
