"""How prompts name concepts. One rule:

    *  or  {placeholder}     the first concept's vectors alone:        "* face in the snow"
    {concept}                the first concept and its class word:     "{concept} in the snow"
    {class_word}             the first concept's class word
    <NAME>                   the vectors alone of the concept NAME:    "a woman with <mexyz> hair"
    {NAME}                   the concept NAME and its class word:      "{mexyz} and {bobxy} on the beach"

A concept that was trained without its class word (preset scene-paper) is named without it in {} too.

NAME is the trigger word; of several concepts that were learnt together ("kitchencat") the end that is its own is enough
("cat"). A concept that was trained with a placeholder of its own ("<me>") answers to that too. Anything else in {} or
<> is an error, so that a name spelt wrong never becomes a silent word of the prompt.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from singleinsert.config.load import nearest
from singleinsert.data.prompts import fill, read_prompt_file
from singleinsert.errors import InputError
from singleinsert.names import FILLED_IN
from singleinsert.placeholders import STAR, concept_words, split_at_placeholders, whole_word

FIRST_SLOT = 0xE000  # private use: no keyboard and no prompt has these characters


@dataclass(frozen=True)
class ConceptName:
    """What prompts may call a loaded concept, and how clients call it.

    ``name``: its trigger word. ``lora``: the stem of its file; "" for none. ``handle``: what it is called among the
    concepts that were learnt with it; "" where that is its name. ``alone``: it was trained without its class word.
    """

    name: str
    class_word: str
    placeholder: str = "*"
    weight: float = 1.0
    lora: str = ""
    handle: str = ""
    alone: bool = False


def slot(index: int) -> str:
    """The character that stands for concept ``index`` in a resolved prompt."""
    return chr(FIRST_SLOT + index)


def resolve(prompt: str, concepts: Sequence[ConceptName]) -> str:
    """``prompt`` with every concept's vectors as its :func:`slot`, and class words written out.

    Raises:
        InputError: something in {} or <> names no loaded concept, or ``*`` is there and none is loaded.
    """

    def by_name(found: re.Match[str]) -> str:
        index = _index_of(found[0][1:-1].lower(), concepts)
        if index is None:
            return found[0]
        return slot(index) if found[0][0] == "<" else _words(index, concepts[index])

    text = re.sub(r"<[^<>]*>|\{[^{}]*\}", by_name, prompt)
    own = {c.placeholder: i for i, c in reversed(list(enumerate(concepts))) if c.placeholder != "*"}
    pieces = split_at_placeholders(text, own)
    text = "".join(piece if placeholder is None else slot(own[placeholder]) for piece, placeholder in pieces)
    if concepts:
        text = fill(text.replace("{concept}", _words(0, concepts[0])), slot(0), concepts[0].class_word)
    elif fill(text, "", "") != " ".join(text.split()):
        raise InputError(f"the prompt {prompt!r} stands for a concept and none is loaded: pass --concept")
    _refuse_unknown(text, prompt, concepts)
    return text


def _calls(concepts: Sequence[ConceptName]) -> str:
    """How prompts call each of them, for messages: "{cat} or {mug}"."""
    return " or ".join(f"{{{concept.handle or concept.name}}}" for concept in concepts)


def _words(index: int, concept: ConceptName) -> str:
    return concept_words(slot(index), concept.class_word, concept.alone)


def _index_of(name: str, concepts: Sequence[ConceptName]) -> int | None:
    """Which concept is called ``name``, by its whole name or, where that is clear, its handle; None for none."""
    for key in ("name", "handle"):
        found = [i for i, concept in enumerate(concepts) if getattr(concept, key).lower() == name]
        if len(found) > 1:
            wholes = " or ".join(concepts[i].name for i in found)
            raise InputError(f"{name!r} could be {wholes} of the loaded concepts: write which one")
        if found:
            return found[0]
    return None


def names_a_concept(resolved: str) -> bool:
    """Whether a resolved prompt holds any concept's vectors."""
    return any(ord(letter) >= FIRST_SLOT and ord(letter) < FIRST_SLOT + 0x1900 for letter in resolved)


def for_webui(resolved: str, concepts: Sequence[ConceptName]) -> str:
    """The prompt as A1111 and Forge want it: embeddings by their files' names, brackets (which weigh words) escaped."""
    return _named(re.sub(r"[()\[\]\\]", r"\\\g<0>", resolved), concepts)


def for_people(prompt: str, concepts: Sequence[ConceptName]) -> str:
    """A prompt as asked for, with the concepts' names in: "mexyz face in the snow"."""
    return _named(resolve(prompt, concepts), concepts)


def _named(text: str, concepts: Sequence[ConceptName]) -> str:
    for index, concept in enumerate(concepts):
        text = text.replace(slot(index), concept.name)
    return text


def lora_tags(concepts: Sequence[ConceptName]) -> list[str]:
    """The WebUIs' tags for the concepts' LoRAs."""
    tags = [f"<lora:{concept.lora}:{concept.weight:g}>" for concept in concepts if concept.lora]
    return list(dict.fromkeys(tags))  # concepts that were learnt together share one


def _refuse_unknown(text: str, prompt: str, concepts: Sequence[ConceptName]) -> None:
    found = re.search(r"\{[^{}]*\}|<[A-Za-z][^<>]*>", text)
    if not found:
        if concepts and (brace := re.search(r"[{}]", text)):
            calls = _calls(concepts)
            raise InputError(f"{brace[0]} in the prompt {prompt!r} stands alone: a concept is written {calls}")
        return
    if found[0].lower().startswith("<lora:"):
        raise InputError(f"{found[0]} in the prompt {prompt!r} is a WebUI's: name the LoRA by --concept NAME:WEIGHT")
    known = [*(c.handle or c.name for c in concepts), *FILLED_IN] if concepts else []
    hint = nearest(found[0][1:-1], known) if known else "; pass --concept to load one"
    raise InputError(f"{found[0]} in the prompt {prompt!r} names no loaded concept{hint}")


@dataclass(frozen=True)
class PromptLine:
    """A prompt with what its line of a prompt file sets; None leaves it to the command line."""

    prompt: str
    negative_prompt: str | None = None
    steps: int | None = None
    guidance_scale: float | None = None
    seed: int | None = None
    width: int | None = None
    height: int | None = None


_OPTIONS = {
    "n": ("negative_prompt", str), "s": ("steps", int), "l": ("guidance_scale", float), "d": ("seed", int),
    "w": ("width", int), "h": ("height", int),
}  # fmt: skip


def prompt_lines(path: Path) -> list[PromptLine]:
    """The lines of a prompt file, kohya's options read: ``--n`` negative, ``--s --l --d --w --h``.

    Raises:
        InputError: no such file, no prompt in it, an option that is unknown or no number; says which line.
    """
    return [_parse_line(line, path) for line in read_prompt_file(path)]


def _parse_line(line: str, path: Path) -> PromptLine:
    prompt, *options = re.split(r"\s+--(?=[A-Za-z])", line)
    values: dict[str, str | int | float] = {}
    for option in options:
        key, _, text = option.partition(" ")
        if key not in _OPTIONS:
            known = " ".join(f"--{name}" for name in _OPTIONS)
            raise InputError(f"{path}: unknown option --{key} in {line!r}; there are {known}")
        name, kind = _OPTIONS[key]
        try:
            values[name] = kind(text.strip())
        except ValueError as error:
            raise InputError(f"{path}: --{key} {text.strip()!r} is no number, in {line!r}") from error
    return PromptLine(prompt, **values)  # type: ignore[arg-type]


_WEIGHTS = re.compile(r"\([^()]*:\s*[\d.]+\s*\)|\(\(|\[\[|\[[^\[\]]*:[^\[\]]*\]|\bBREAK\b")


def note_of_weights(prompts: Sequence[str]) -> str:
    """What to tell of WebUIs' weights and brackets in a prompt; "" where there are none."""
    found = next((match[0] for prompt in prompts if (match := _WEIGHTS.search(prompt))), "")
    return f"{found!r} is taken literally: brackets and weights of WebUIs mean nothing here" if found else ""


def warn_of_prompt(prompt: str, concepts: Sequence[ConceptName]) -> None:
    """Say on stderr that a prompt names no concept, which may be meant, for comparison; or which of several it means by
    words that are any concept's."""
    if not names_a_concept(resolve(prompt, concepts)):
        how = _calls(concepts) if len(concepts) > 1 else "* or {concept}"
        print(f"note: the prompt {prompt!r} names no concept: write {how} where it belongs", file=sys.stderr)
    elif len(concepts) > 1 and re.search(rf"\{{(?:concept|placeholder|class_word)\}}|{whole_word(STAR)}", prompt):
        print(f"note: in {prompt!r} the first of {len(concepts)} concepts is meant, {concepts[0].name}: write "
              f"{_calls(concepts[1:])} for another", file=sys.stderr)  # fmt: skip
