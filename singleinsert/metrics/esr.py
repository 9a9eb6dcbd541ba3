"""Judges of editing success: did what the prompt asked for happen? Chosen by a short text, one function for all."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from PIL import Image

from singleinsert.errors import InputError
from singleinsert.metrics.targets import Target

KINDS = "vlm:MODEL, openai:URL#MODEL, page:FOLDER or python:MODULE:ATTRIBUTE"
Verdicts = list[list[bool]]


class EditJudge(Protocol):
    name: str

    def __call__(self, pictures: Sequence[Image.Image], targets: Sequence[Sequence[Target]]) -> Verdicts:
        """Pictures, and for each the targets of its prompt -> for each whether each target is met."""
        ...


class Checked:
    """A judge whose questions and answers are checked, so that one of a user's own fails with a line that says why."""

    def __init__(self, judge: EditJudge, name: str) -> None:
        self.judge, self.name = judge, name

    def __call__(self, pictures: Sequence[Image.Image], targets: Sequence[Sequence[Target]]) -> Verdicts:
        """As :class:`EditJudge`.

        Raises:
            InputError: not as many lists of targets as pictures, or an answer that is not one yes or no per target.
        """
        if len(pictures) != len(targets):
            raise InputError(f"{len(pictures)} pictures but {len(targets)} lists of targets to judge")
        if not pictures:
            return []
        answers = self.judge(pictures, targets)
        wanted, got = [len(each) for each in targets], [len(each) for each in answers]
        if wanted != got:
            raise InputError(f"judge {self.name} must answer once per target: asked {wanted[:5]}, answered {got[:5]}")
        return [[bool(answer) for answer in each] for each in answers]


def load_judge(spec: str, device: torch.device | str = "cpu") -> EditJudge:
    """
    Args:
        spec: one of
            "vlm:MODEL"  a transformers image-text-to-text model, hub id or folder (:mod:`.vlm`);
            "openai:URL#MODEL"  an OpenAI-compatible endpoint; the key is OPENAI_API_KEY's (:mod:`.endpoint`);
            "page:FOLDER"  a page for people (:mod:`.page`);
            "python:MODULE:ATTRIBUTE"  a judge of one's own, such as the miniature world's "python:testbed.esr:judge".

    Raises:
        InputError: the text is none of these. ModelError: the model cannot be had.
    """
    kind, _, rest = spec.partition(":")
    if not rest:
        raise InputError(f"judge {spec!r} is none of {KINDS}")
    if kind == "vlm":
        from singleinsert.metrics.vlm import VisionLanguageJudge

        return Checked(VisionLanguageJudge(rest, device), spec)
    if kind == "openai":
        from singleinsert.captions.endpoint import Endpoint
        from singleinsert.metrics.endpoint import EndpointJudge

        return Checked(EndpointJudge(Endpoint.from_spec(rest)), spec)
    if kind == "page":
        from singleinsert.metrics.page import PageJudge

        return Checked(PageJudge(rest), spec)
    if kind == "python":
        judge = of_ones_own(rest, "judge")
        if not callable(judge):
            raise InputError(f"judge {spec}: it is no function or judge")
        return Checked(judge, spec)
    raise InputError(f"judge {spec!r} is none of {KINDS}")


def of_ones_own(rest: str, what: str) -> Any:
    """What MODULE:ATTRIBUTE names; ``what`` it is to be is said in the InputError where there is no such thing."""
    module_name, _, attribute = rest.partition(":")
    if not module_name or not attribute:
        raise InputError(f"{what} 'python:{rest}' is not python:MODULE:ATTRIBUTE")
    try:
        module = importlib.import_module(module_name)
    except ImportError as problem:
        raise InputError(
            f"{what} python:{rest}: {module_name} cannot be imported ({problem}): run from the folder it is in"
        ) from problem
    if not hasattr(module, attribute):
        raise InputError(f"{what} python:{rest}: {module_name} has no function or {what} {attribute!r}")
    return getattr(module, attribute)
