"""What a run learns from: pictures, each with the subjects that it shows and the words for the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from singleinsert.placeholders import concept_words

BACKGROUND = "background"
"""Handle and class word of what no mask covers, where that is learnt too."""


@dataclass(frozen=True)
class Frame:
    """How a training picture was cut from its original, for families that are told (SDXL's time ids). In pixels.

    Attributes:
        size: (height, width) of what trains. original: of what it was cut from. crop: (top, left) of the cut.
    """

    size: tuple[int, int]
    original: tuple[int, int]
    crop: tuple[int, int] = (0, 0)

    @classmethod
    def whole(cls, size: tuple[int, int]) -> Frame:
        """A picture that is its own original, which is what samplers say."""
        return cls(size, size)


@dataclass(frozen=True)
class Subject:
    """One thing in a picture that becomes a concept.

    Attributes:
        handle: what prompts of this run call it; the same in every picture that shows it.
        class_word: what it is one of ("face").
        mask: mode "L", the training picture's size, 255 on the subject. share: of the picture, in (0, 1).
    """

    handle: str
    class_word: str
    mask: Image.Image
    share: float


@dataclass(frozen=True)
class TrainingPicture:
    """A square picture with its subjects.

    Attributes:
        image: mode "RGB". subjects: at least one; one is SingleInsert's case.
        description: what it shows besides the subject, with "{concept}" in the subject's place; "" where unknown.
        source: the file it came from, for messages. square: where it lies there, as left, top, right and bottom.
    """

    image: Image.Image
    frame: Frame
    subjects: tuple[Subject, ...]
    description: str = ""
    source: str = ""
    square: tuple[int, int, int, int] | None = None

    @property
    def handles(self) -> tuple[str, ...]:
        return tuple(subject.handle for subject in self.subjects)


@dataclass(frozen=True)
class Handle:
    """A concept of the run: what it is called, what it is one of, and the word of prompts that stands for it.

    ``alone``: prompts name it without its class word, as the paper of Break-A-Scene does.
    """

    name: str
    class_word: str
    placeholder: str
    alone: bool = False

    @property
    def words(self) -> str:
        """What prompts name it by: "<cat> cat"."""
        return concept_words(self.placeholder, self.class_word, self.alone)


BACKGROUND_HANDLE = Handle(BACKGROUND, BACKGROUND, f"<{BACKGROUND}>")


def plain_name(name: str) -> str:
    """A name in which prompts can call a concept: "coffee_cup" for "coffee cup"."""
    return "".join(letter if letter.isalnum() else "_" for letter in name)


def name_handles(class_words: Sequence[str], names: Sequence[str], placeholder: str) -> tuple[Handle, ...]:
    """The concepts of a run, in the order of their class words.

    A single one is ``placeholder`` itself ("*"). Of several, each is called by its class word, with a number where
    two are of one class ("cat1", "cat2": no name is part of another), and its placeholder is the name in brackets.

    Args:
        names: what the user calls them, as many as class words; none: as above.
    """
    if len(class_words) == 1:
        return (Handle(names[0] if names else class_words[0], class_words[0], placeholder),)
    wanted = list(names) or [
        f"{word}{class_words[: i + 1].count(word)}" if class_words.count(word) > 1 else word
        for i, word in enumerate(class_words)
    ]
    plain = map(plain_name, wanted)
    return tuple(Handle(n, word, f"<{n}>") for n, word in zip(plain, class_words, strict=True))
