"""One call from a picture to its description: the user's file, the user's words, or a model's sentence, checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from singleinsert.captions.answers import UnusableError, caption_from_answer
from singleinsert.captions.ask import Ask, RefusedError, asked_once
from singleinsert.captions.critic import criticize, forgotten_remarks, remarks_on
from singleinsert.captions.files import read_description
from singleinsert.captions.form import Room, fit, form_warnings, missing_aspects, phrases_read, says_something
from singleinsert.captions.instruction import again, beginning, instruction
from singleinsert.captions.phrases import split_caption, without_phrase
from singleinsert.captions.verdicts import Verdict, judge
from singleinsert.config.fields import CaptionSettings
from singleinsert.data.captions import (
    CONCEPT,
    METADATA,
    caption_file,
    one_line,
    unread_lines,
)
from singleinsert.data.pictures import Picture
from singleinsert.errors import ConfigError, InputError, SingleInsertError

OUTSIDE = ("thing",)
"""Roles of phrases that speak of what lies outside of the subject's mask: things beside it, and the place."""
WORDS = "words:"
BY_HAND = "write it yourself into {file}, give --scene_words, or take another model"


class CaptionError(InputError):
    """A model gave no caption that can be used: one line, with its reason and what to do."""


@dataclass(frozen=True)
class Description:
    """A caption and what is known of it.

    Attributes:
        text: with ``{concept}`` for the concept, as prompts have it.
        class_word: what the subject is one of. source: who wrote it: a file's name, a model's, or "the words given".
        verdicts: one for each phrase of ``original`` that the text encoder reads, in its order.
        warnings: about the whole, a sentence each.
        original: as it was before anything was left out by itself; a user's own text stays what it is.
    """

    text: str
    class_word: str
    source: str
    verdicts: tuple[Verdict, ...]
    warnings: tuple[str, ...]
    original: str

    @property
    def class_prompt(self) -> str:
        """The same for the frozen model: the class word alone in the concept's place."""
        return self.text.replace(CONCEPT, self.class_word)

    def within_mask(self) -> str:
        """The text without what the mask leaves out in any case: things beside the subject, and places."""
        caption = self.text
        for phrase in reversed(split_caption(caption, self.class_word)):
            if phrase.role in OUTSIDE:
                caption = without_phrase(caption, phrase)
        return caption

    def lines(self) -> list[str]:
        """For the log: the caption, what was left out, what a person should look at."""
        out = [f"caption from {self.source}: {self.text}"]
        if self.original != self.text:
            out.append(f"  it was: {self.original}")
        out += [f"  {verdict.line()}" for verdict in self.verdicts if verdict.status != "keep"]
        return out + [f"  note: it {warning}" for warning in self.warnings]


def describe(
    picture: Picture,
    class_word: str,
    settings: CaptionSettings,
    *,
    room: Room,
    ask: Ask | None = None,
    load: Callable[[], Ask] | None = None,
    say: Callable[[str], object] = print,
) -> Description | None:
    """The picture's description; None where none is there, none was asked for and ``settings.mode`` needs none.

    A caption file goes before everything, and is never changed. What a model answers is used only where it is a
    caption; a refusal, silence, rambling or a sentence about nothing but the subject is an error, never plain training.

    Args:
        settings: the [caption] section.
        room: what the text encoder reads.
        ask: a model that is open, in place of ``settings.describe``.
        load: gives the model of ``settings.describe``, and its caller frees it; without both, that is done here.
        say: told where a picture is sent.

    Raises:
        CaptionError: the model gave nothing that can be used, or the mode needs what nobody writes.
        ConfigError, ModelError, InputError: as they say.
    """
    if (text := read_description(picture.path, class_word)) is not None:
        file = caption_file(picture.path)
        source = file.name if file.is_file() else METADATA
        if spec := settings.describe.strip():
            say(f"note: {spec} is not asked: {source} has the description")
        if more := unread_lines(picture.path):
            say(f"note: {more}")
        return of_user(text, class_word, source, room)
    if ask is None and not settings.describe.strip():
        if (picture.path.parent / METADATA).is_file():
            say(f"note: {METADATA} has no text for {picture.path.name}, which is learnt without a description")
        if settings.mode not in ("auto", "off"):
            raise CaptionError(
                f"caption.mode {settings.mode} needs a description of {picture.path.name}: write it into "
                f"{caption_file(picture.path).name}, or say who does: --describe or --scene_words"
            )
        return None
    return compose(picture, class_word, settings, room, ask=ask, load=load, say=say)


def compose(
    picture: Picture,
    class_word: str,
    settings: CaptionSettings,
    room: Room,
    *,
    ask: Ask | None = None,
    load: Callable[[], Ask] | None = None,
    say: Callable[[str], object] = print,
) -> Description:
    """As :func:`describe`, by the words or the model alone, whatever file is beside the picture."""
    spec = settings.describe.strip()
    if ask is None and spec.startswith(WORDS):
        return of_user(caption_of_words(spec.removeprefix(WORDS), class_word), class_word, "the words given", room)
    text = instruction(class_word, settings.instruction)
    with asked_once(spec) as own:
        model = ask or (load or own)()
        tell_where(model, picture.path, say)
        return by_model(model, picture, class_word, text, room)


def tell_where(ask: Ask, path: Path, say: Callable[[str], object]) -> None:
    """Says so where a picture leaves this machine, and where a server here is asked, whose first answer may take
    minutes."""
    host, is_local = getattr(ask, "host", None), getattr(ask, "is_local", True)
    if host:
        say(
            f"asking {ask.name} about {path.name}" if is_local else f"{path.name} is sent to {host}, as {ask.name} says"
        )


def caption_of_words(given: str, class_word: str) -> str:
    """The plain caption of words that the user gave: "red hat, beach" -> "a photo of a {concept}, red hat, beach".

    Raises:
        ConfigError: no words.
    """
    listed = [one_line(word) for word in given.split(",") if word.strip()]
    if not listed:
        raise ConfigError('--scene_words is empty: name what is in the picture beside the subject: "red hat, beach"')
    start = beginning(class_word).removesuffix(class_word) + CONCEPT
    return ", ".join([start.replace("an {", "a {"), *listed])


def of_user(caption: str, class_word: str, source: str, room: Room) -> Description:
    """A caption by hand: looked at, never changed."""
    phrases = phrases_read(split_caption(caption, class_word), caption, class_word, room)
    warnings = form_warnings(caption, class_word, room)
    return Description(caption, class_word, source, tuple(map(judge, phrases)), tuple(warnings), caption)


def by_model(ask: Ask, picture: Picture, class_word: str, text: str, room: Room) -> Description:
    """A caption by a model: asked twice at most, checked, and cleared of what words and critic call subject."""
    original, notes = _ask_for_caption(ask, picture, class_word, text)
    original, cut = fit(original, class_word, room)
    if cut:
        notes.append(f"was too long for the text encoder; cut from its end: {', '.join(map(repr, cut))}")
    phrases = split_caption(original, class_word)
    try:
        letters = [criticize(ask, picture.image, each, class_word) for each in phrases]
    except SingleInsertError as problem:  # what it has said is not lost
        raise CaptionError(f"{problem}; it had written, unchecked: {original!r}") from problem
    notes += remarks_on(letters, ask)
    verdicts = tuple(judge(each, letter, may_drop=True) for each, letter in zip(phrases, letters, strict=True))
    caption = without_dropped(original, verdicts)
    if not says_something(split_caption(caption, class_word)):
        raise _unusable(ask, picture, f"says nothing beside the {class_word}")
    if aspects := missing_aspects(split_caption(caption, class_word), class_word):
        notes.append(f"does not say: {', '.join(aspects)}")
    notes += forgotten_remarks(ask, picture.image, caption, class_word)
    if ask.captions_only:
        notes.append("is by a model that cannot be instructed: look whether it tells of the subject")
    warnings = (*notes, *form_warnings(caption, class_word, room))
    return Description(caption, class_word, ask.name, verdicts, warnings, original)


def without_dropped(caption: str, verdicts: tuple[Verdict, ...]) -> str:
    """The caption without the phrases that were dropped, from its end, so that the places of the others stay."""
    for verdict in reversed(verdicts):
        phrase = verdict.phrase
        if verdict.status == "drop" and caption[phrase.start : phrase.end] == phrase.text:
            caption = without_phrase(caption, phrase)
    return caption


def _ask_for_caption(ask: Ask, picture: Picture, class_word: str, text: str) -> tuple[str, list[str]]:
    why = ""
    for request in (text, None):
        try:
            return caption_from_answer(ask(picture.image, request or text + again(class_word, why)), class_word)
        except UnusableError as problem:
            why = str(problem)
        except RefusedError as problem:
            raise CaptionError(f"{problem}: {BY_HAND.format(file=caption_file(picture.path).name)}") from problem
    raise _unusable(ask, picture, why)


def _unusable(ask: Ask, picture: Picture, why: str) -> CaptionError:
    hand = BY_HAND.format(file=caption_file(picture.path).name)
    return CaptionError(f"{ask.name} gave no caption for {picture.path.name}, its answer {why}: {hand}")
