"""An OpenAI-compatible endpoint as the judge of edits: a picture and a yes/no question at a time, over HTTP."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from singleinsert.captions.ask import first_option
from singleinsert.captions.endpoint import Endpoint, EndpointError, TryAgainError
from singleinsert.metrics.targets import Target

__all__ = ["EndpointError", "EndpointJudge"]

ASK = "{question} Answer with yes or no only."


class EndpointJudge:
    """Judges by :attr:`Target.question` through :class:`singleinsert.captions.endpoint.Endpoint`."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint, self.name = endpoint, endpoint.name

    def __call__(self, pictures: Sequence[Image.Image], targets: Sequence[Sequence[Target]]) -> list[list[bool]]:
        """As :class:`singleinsert.metrics.esr.EditJudge`.

        Raises:
            EndpointError: one line: what the service said.
        """
        return [
            [self.endpoint.ask(picture, ASK.format(question=target.question), _verdict) for target in wanted]
            for picture, wanted in zip(pictures, targets, strict=True)
        ]


def _verdict(answer: str) -> bool:
    verdict = first_option(answer, ("yes", "no"))
    if verdict is None:
        raise TryAgainError(f"answered {answer[:60]!r}, which is neither yes nor no")
    return verdict == "yes"
