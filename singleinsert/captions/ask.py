"""One way to ask a vision-language model about a picture, and to read what it says."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from singleinsert.errors import ConfigError, ModelError, first_line

if TYPE_CHECKING:
    import torch
    from PIL import Image

KINDS = "vlm:MODEL (hub id or folder) or openai:URL#MODEL"
LARGEST_SIDE = 768
"""Larger pictures are shrunk before a model sees them: services charge by the pixel, and shrink them themselves."""


class Ask(Protocol):
    """A vision-language model.

    Attributes:
        name: as the user spelled it.
        captions_only: it gives captions and ignores the text (BLIP, GIT, Florence-2): it cannot be instructed.
    """

    name: str
    captions_only: bool

    def __call__(self, picture: Image.Image, text: str) -> str:
        """The model's answer, as it gives it, thoughts left out; :func:`clean_sentence` makes a caption of it."""
        ...

    def choose(self, picture: Image.Image, text: str, options: Sequence[str]) -> str | None:
        """Which of ``options`` (a word or a letter each) the answer begins with; None where it is none of them."""
        ...

    def close(self) -> None:
        """Frees the model's memory."""
        ...


class RefusedError(ModelError):
    """The model declined to answer."""


def load_ask(spec: str, device: torch.device | str = "cpu") -> Ask:
    """The model behind ``vlm:HF_ID_OR_FOLDER`` or ``openai:URL#MODEL``.

    Raises:
        ConfigError: the text is neither. ModelError: the model cannot be loaded, in one line.
    """
    kind, _, rest = spec.partition(":")
    if kind == "vlm" and rest:
        from singleinsert.captions.local import LocalModel

        return LocalModel(rest, device)
    if kind == "openai" and rest:
        from singleinsert.captions.endpoint import Endpoint

        return Endpoint.from_spec(rest)
    raise ConfigError(f"{spec!r} names no vision-language model: write {KINDS}")


@contextmanager
def asked_once(spec: str, device: str = "auto") -> Iterator[Callable[[], Ask]]:
    """What gives the model of ``spec``: loaded when it is first wanted, and freed at the end.

    ``device``: as of :func:`best_device`.
    """
    kept: list[Ask] = []

    def load() -> Ask:
        if not kept:
            kept.append(load_ask(spec, best_device(device)))
        return kept[0]

    try:
        yield load
    finally:
        for ask in kept:
            ask.close()


def best_device(name: str) -> str:
    """The device of a name; "auto" is a GPU where there is one.

    Raises:
        ConfigError: no such device.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError) as problem:
        raise ConfigError(f"--device {name} cannot be used: {first_line(problem)}") from problem
    return name


def shrink(picture: Image.Image) -> Image.Image:
    """A copy in RGB whose longer side has :data:`LARGEST_SIDE` pixels at most."""
    copy = picture.convert("RGB")
    if copy is picture:
        copy = picture.copy()
    copy.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    return copy


# --- reading answers --------------------------------------------------------------------------------------------------

_THOUGHT = re.compile(r"<(think|thinking|thought)>.*?(</\1>|\Z)", re.DOTALL | re.IGNORECASE)
_PREAMBLE = re.compile(
    r"^(?:(?:sure|certainly|of course|okay|ok|here(?:'s| is)(?: (?:a|the|your))?)\b[^:.\n]{0,80}[:!.]\s*)+"
    r"|^(?:caption|description|answer|sentence|output)\s*:\s*"
    r"|^(?:the|this) (?:image|picture|photo|photograph|scene) (?:shows|depicts|features|displays|contains|is of)\s+",
    re.IGNORECASE,
)
_BULLET = re.compile(r"^(?:[-*]|\d{1,2}[.)])\s+")
_FENCE = re.compile(r"^\s*```\w*\s*$", re.MULTILINE)
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]?\s+(?=[A-Z\"'(\[])|\n")
_ABBREVIATION = re.compile(r"\b(?:mr|mrs|ms|dr|st|no|vs|approx|e\.g|i\.e)\.$", re.IGNORECASE)
_ASCII = str.maketrans({
    "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": ", ", "\u2026": ".",
    "\u00a0": " ", "\u2022": " ",
})  # fmt: skip

_REFUSALS = re.compile(
    r"\b(?:i(?:'m| am) (?:sorry|unable|not able)|(?<![a-z] )sorry,|i (?:can ?not|can't|won't|will not)\b|"
    r"as an ai\b|unable to (?:assist|help|describe|identify)|can(?:no|')t (?:assist|help) with|"
    r"against my (?:policy|policies|guidelines|rules|programming|principles)|"
    r"i (?:do not|don't) (?:see|have access))",
    re.IGNORECASE,
)


def without_thoughts(answer: str) -> str:
    """An answer without its <think> parts; one that was cut off while it thought is empty."""
    text = _THOUGHT.sub(" ", answer)
    # some chat templates open the thought themselves, so that only its end is generated
    return text.rpartition("</think>")[2].strip()


_QUOTED = re.compile(r"(?<=\w )\"[^\"]*\"")
"""Words in the picture, of which a text tells: a sign that says "I can't"."""


def is_refusal(text: str) -> bool:
    """Whether a model declines, in its first words: "I'm sorry, but I can't help with that"."""
    return bool(_REFUSALS.search(_QUOTED.sub("", " ".join(text.translate(_ASCII).split()))[:120]))


def clean_sentence(answer: str) -> str:
    """The first sentence of an answer as one line of plain text: no preamble, quotes, markup or final full stop."""
    text = _unwrapped(_FENCE.sub("", without_thoughts(answer)).strip()).translate(_ASCII)
    text = re.sub(r"[*_`#]+(?=\w)|(?<=[\w.,!:])[*_`#]+", "", text).strip()
    before = None
    while before != text:
        before, text = text, _PREAMBLE.sub("", _BULLET.sub("", text.strip().strip('"').strip()))
    sentence = _first_sentence(text)
    sentence = unicodedata.normalize("NFKD", sentence).encode("ascii", "ignore").decode()
    return " ".join(sentence.replace('"', "").split()).rstrip(" .!,;:")


def _unwrapped(text: str) -> str:
    """The one text in a JSON object, which some models answer with; any other answer as it is."""
    try:
        values = list(json.loads(text).values())
    except (ValueError, AttributeError):
        return text
    return values[0] if len(values) == 1 and isinstance(values[0], str) else text


def _first_sentence(text: str) -> str:
    start = 0
    for end in _SENTENCE_END.finditer(text):
        if end[0].startswith("\n") or not _ABBREVIATION.search(text[start : end.start()]):
            if text[start : end.start()].strip():
                return text[: end.start()]
            start = end.end()
    return text


def first_option(answer: str, options: Sequence[str]) -> str | None:
    """The first word of an answer that is one of ``options``, ignoring case; None where there is none.

    A single letter counts only where nothing follows it but punctuation, or the article "A" would be option A.
    """
    by_key = {option.lower(): option for option in options if len(option) > 1}
    letters = {option for option in options if len(option) == 1}
    for found in re.finditer(r"[^\W\d_]+(?=(\s*(?:[^\w\s\'\"]|\n|$))?)", answer):
        word, ends = found[0], found[1] is not None
        if len(word) == 1 and word in letters and ends:
            return word
        if option := by_key.get(word.lower()):
            return option
    return None
