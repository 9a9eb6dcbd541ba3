"""The page on which one person answers, screen by screen; nothing on it says how a picture was made."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from singleinsert.data.opening import open_picture
from singleinsert.evaluate.study.answers import Answer, AnswerFile
from singleinsert.evaluate.study.questions import CANNOT_SAY, LEFT, QUESTIONS, RATING, RIGHT, SCALE, Item
from singleinsert.loopback import Content, NotUnderstood, fill_page
from singleinsert.masks.cleanup import union

TEMPLATE = Path(__file__).resolve().parents[2] / "assets" / "evaluation" / "study.html"
LARGEST_SIDE = 1024


class Study:
    """One person's screens and answers, as a site of :mod:`singleinsert.loopback`."""

    def __init__(
        self, kind: str, items: Sequence[Item], file: AnswerFile, folder: Path, load: Callable[[str], Image.Image]
    ) -> None:
        """
        Args:
            folder: the results', where the references lie. load: gives a drawn picture by its key.
        """
        self.kind, self.items, self.file = kind, items, file
        self.folder, self.load = folder, load
        self.options = SCALE if kind == RATING else (LEFT, CANNOT_SAY, RIGHT)

    def show(self, path: str) -> Content | None:
        """The page; ``reference/I`` and ``picture/I/K``, the K-th picture of screen I, which name no method."""
        if path == "":
            return fill_page(TEMPLATE.read_text(encoding="utf-8"), self.title, self.state())
        kind, _, rest = path.partition("/")
        numbers = [int(part) if part.isdecimal() and len(part) < 9 else -1 for part in rest.split("/")]
        if not 0 <= numbers[0] < len(self.items):
            return None
        item = self.items[numbers[0]]
        if kind == "reference" and len(numbers) == 1:
            return _png(self.reference(item))
        if kind == "picture" and len(numbers) == 2 and 0 <= numbers[1] < len(item.pictures):
            return _png(self.load(item.pictures[numbers[1]]))
        return None

    def reference(self, item: Item) -> Image.Image:
        """The training picture; of a scene what the prompt names of it, on white."""
        picture = open_picture(self.folder / item.reference).convert("RGB")
        if not item.masks:
            return picture
        mask = union([open_picture(self.folder / name).convert("L") for name in item.masks])
        return Image.composite(picture, Image.new("RGB", picture.size, "white"), mask)

    def act(self, path: str) -> Callable[[Any], Mapping[str, Any]] | None:
        return self.answer if path == "answer" else None

    def check_pictures(self) -> None:
        """InputError where a picture is gone, before anybody has begun to answer."""
        for item in self.items:
            self.reference(item)
            for key in item.pictures:
                self.load(key)

    @property
    def answered(self) -> int:
        """Screens of which every question is answered."""
        screens = (self._screen(item) for item in self.items)
        return sum(all(len(each) == len(screen["questions"]) for each in screen["answers"]) for screen in screens)

    @property
    def title(self) -> str:
        return "Rate pictures" if self.kind == RATING else "Compare pictures"

    def state(self) -> dict[str, Any]:
        """What the page needs: every screen's words, and the answers that are there."""
        return {"kind": self.kind, "options": self.options, "screens": [self._screen(item) for item in self.items]}

    def _screen(self, item: Item) -> dict[str, Any]:
        asked = {name: text.replace("{class_word}", item.class_word) for name, text in QUESTIONS[self.kind].items()}
        given = self.file.answers
        answers = [
            {name: given[place].answer for name in asked if (place := self._place(item, number, name)) in given}
            for number in range(len(item.pictures) if self.kind == RATING else 1)
        ]
        return {"text": item.text, "pictures": len(item.pictures), "questions": asked, "answers": answers}

    def _place(self, item: Item, number: int, question: str) -> tuple[str, str, str, str]:
        """Where an answer belongs; ``number``: of the picture, where each is asked about."""
        return self.file.rater, item.key, item.methods[number] if self.kind == RATING else "", question

    def answer(self, value: Any) -> Mapping[str, Any]:
        """Keep one answer: ``{"screen", "picture", "question", "answer"}``; how many are given is answered."""
        try:
            number, picture = value["screen"], value["picture"]
            question, answer = value["question"], value["answer"]
        except (KeyError, TypeError) as problem:
            raise NotUnderstood from problem
        whole = type(number) is int and type(picture) is int
        if not whole or not 0 <= number < len(self.items) or question not in QUESTIONS[self.kind]:
            raise NotUnderstood
        item = self.items[number]
        last = len(item.pictures) if self.kind == RATING else 1
        if not 0 <= picture < last or answer not in self.options:
            raise NotUnderstood
        rater, key, method, _ = self._place(item, picture, question)
        self.file.add(
            Answer(rater, key, item.concept, item.text, "|".join(item.methods), method, question, answer,
                   time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
        )  # fmt: skip
        return {"answers": len(self.file.answers)}


def _png(picture: Image.Image) -> Content:
    if max(picture.size) > LARGEST_SIDE:
        picture = picture.copy()
        picture.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
    file = io.BytesIO()
    picture.convert("RGB").save(file, "PNG")
    return Content("image/png", file.getvalue())
