"""People as the judge of edits: one page with every picture and question, shuffled, without a word on methods.

FOLDER/questions/ keeps what was asked so far, a picture and its question each; FOLDER/page.html shows what nobody has
answered yet, in an order that depends on the pictures' content alone; the page saves a JSON file, which goes into
FOLDER. Several people may answer, each in a file of their own: more than half must say yes.
"""

from __future__ import annotations

import hashlib
import html
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from singleinsert.atomic import write_atomically, write_text
from singleinsert.data.opening import open_picture
from singleinsert.drawing.dataurl import data_url
from singleinsert.errors import InputError
from singleinsert.metrics.targets import Target

PAGE, QUESTIONS, ANSWERS = "page.html", "questions", "answers*.json"
TEMPLATE = Path(__file__).resolve().parents[1] / "assets" / "evaluation" / "judge.html"
LARGEST_SIDE = 640


class WaitingForPeople(InputError):
    """Questions are open; the page is written. Answer it and run again."""


class PageJudge:
    """Judges by what people answered to :attr:`Target.question`."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.name = f"page:{folder}"

    def __call__(self, pictures: Sequence[Image.Image], targets: Sequence[Sequence[Target]]) -> list[list[bool]]:
        """As :class:`singleinsert.metrics.esr.EditJudge`, once everything is answered.

        Raises:
            WaitingForPeople: not everything is answered; the page holds what is open, of this call and of earlier ones.
            InputError: an answers file that cannot be read.
        """
        wanted = [
            [self._ask(picture, target.question) for target in each]
            for picture, each in zip(pictures, targets, strict=True)
        ]
        answers = self.answers()
        if any(item not in answers for each in wanted for item in each):
            count = self.write()
            raise WaitingForPeople(
                f"{count} questions wait for a person: open {self.folder / PAGE}, answer them, put the file that it "
                f"saves into {self.folder} and run again"
            )
        return [[answers[item] for item in each] for each in wanted]

    def answers(self) -> dict[str, bool]:
        """Question's id -> whether more than half of the people said yes."""
        votes: dict[str, list[bool]] = defaultdict(list)
        for file in sorted(self.folder.glob(ANSWERS)):
            try:
                given = json.loads(file.read_text(encoding="utf-8"))["answers"]
                for item, answer in given.items():
                    if not isinstance(answer, bool):
                        raise ValueError(f"{item} is {answer!r}, not true or false")
                    votes[item].append(answer)
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
                raise InputError(f"{file} is no file of answers that the page saved: {problem}") from problem
        return {item: sum(each) * 2 > len(each) for item, each in votes.items()}

    def write(self) -> int:
        """Write the page of everything that is open; how many questions that is."""
        answered = self.answers()
        files = (self.folder / QUESTIONS).glob("*.json")
        open_items = sorted((file.stem for file in files if file.stem not in answered), key=_shuffled)
        items = []
        for item in open_items:
            question = json.loads((self.folder / QUESTIONS / f"{item}.json").read_text(encoding="utf-8"))
            picture = open_picture(self.folder / QUESTIONS / f"{question['picture']}.png")
            items.append({"id": item, "question": question["question"], "picture": data_address(picture)})
        write_text(self.folder / PAGE, page(items))
        return len(items)

    def _ask(self, picture: Image.Image, question: str) -> str:
        """Keep a question; its id, the same for the same picture and words."""
        picture = picture.convert("RGB")
        content = hashlib.sha256(repr(picture.size).encode() + picture.tobytes()).hexdigest()[:20]
        item = hashlib.sha256(f"{content} {question}".encode()).hexdigest()[:20]
        kept = self.folder / QUESTIONS
        if not (kept / f"{content}.png").exists():
            write_atomically(kept / f"{content}.png", picture.save)
        if not (kept / f"{item}.json").exists():
            write_text(kept / f"{item}.json", json.dumps({"question": question, "picture": content}) + "\n")
        return item


def _shuffled(item: str) -> str:
    return hashlib.sha256(f"order {item}".encode()).hexdigest()


def page(items: Sequence[dict[str, str]]) -> str:
    """The page as one text: nothing is fetched, and nothing in it says how a picture was made."""
    fingerprint = hashlib.sha256(" ".join(item["id"] for item in items).encode()).hexdigest()[:12]
    data = json.dumps({"page": fingerprint, "items": list(items)}).replace("<", "\\u003c")
    text = TEMPLATE.read_text(encoding="utf-8")
    return text.replace("COUNT", html.escape(str(len(items)))).replace('"DATA"', data)


def data_address(picture: Image.Image) -> str:
    """The picture inside an address: PNG where it is small, else JPEG, so that a page of hundreds still opens."""
    if max(picture.size) <= 256:
        return data_url(picture)
    return data_url(picture, "JPEG", largest_side=LARGEST_SIDE, quality=92)
