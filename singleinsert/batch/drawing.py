"""Pictures that somebody asks a waiting worker for: it draws them between two jobs, on the model that it keeps.

A request is a folder ``.batch/pictures/ID`` with ``request.json``; the worker claims it by a file that only one process
can make, writes ``00.png``, ``01.png``, ... as they come, and says in ``status.json`` how far it is.
"""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from singleinsert.atomic import write_atomically, write_text
from singleinsert.batch.jobs import HIDDEN
from singleinsert.batch.worker import Worker
from singleinsert.claims import make_exclusively, process_lives, read_object
from singleinsert.errors import InputError, SingleInsertError, first_line

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from singleinsert.inference.prompts import ConceptName

PICTURES, REQUEST, STATUS, CLAIM = "pictures", "request.json", "status.json", "claim.json"
MOST = 36
"""Pictures of one request."""


@dataclass(frozen=True)
class Wish:
    """What is to be drawn: a row for each strength of the LoRAs, a column for each seed.

    Attributes:
        concepts: names of folders beside the queue, the first one's base model is drawn with.
        base: a row more, of what the base model draws where the concepts are only of their class.
        attention: of each picture also where the concepts and their words act.
        edit: more words of ``infer`` for an edit of a photo (``--edit ...``). check: nothing is drawn for its own sake,
            but the first concept looked at, as ``check`` does; its words are then the status's reason.
    """

    concepts: tuple[str, ...]
    prompt: str
    seeds: tuple[int, ...] = (0,)
    strengths: tuple[float, ...] = (1.0,)
    base: bool = False
    attention: bool = False
    steps: int = 50
    guidance_scale: float = 7.5
    edit: tuple[str, ...] = field(default=())
    check: bool = False

    @property
    def count(self) -> int:
        return 1 if self.check else len(self.seeds) * (len(self.strengths) + self.base)


def read_wish(told: Mapping[str, Any]) -> Wish:
    """A wish from JSON. InputError, one line, where it is none."""
    try:
        known: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in told.items()}
        wish = Wish(**known)
        numbers = [*map(int, wish.seeds), wish.steps, *map(float, wish.strengths), wish.guidance_scale]
        fits = all(isinstance(number, int | float) for number in numbers) and isinstance(wish.prompt, str)
    except (TypeError, ValueError) as problem:
        raise InputError(f"these pictures cannot be asked for: {first_line(problem)}") from problem
    if not fits or not wish.concepts or not wish.seeds or not wish.strengths or wish.count > MOST:
        raise InputError(f"1 to {MOST} pictures at a time, of a concept and with a prompt")
    if not 1 <= wish.steps <= 1000 or not all(0 <= seed < 2**63 for seed in wish.seeds):
        raise InputError("steps are 1 to 1000, and seeds are not negative")
    if not all(abs(strength) <= 2 for strength in wish.strengths):
        raise InputError("strengths are at most 2; 1 is usual")
    return wish


def ask_for_pictures(folder: Path, request_id: str, wish: Wish) -> None:
    """Leave a request for whoever works in a batch's ``folder``."""
    place = folder / HIDDEN / PICTURES / request_id
    write_text(place / REQUEST, json.dumps({"asked": time.time(), **asdict(wish)}) + "\n")


def open_requests(folder: Path) -> list[Path]:
    """Folders of requests that nobody has drawn or is drawing, the oldest first."""
    found = [path.parent for path in (folder / HIDDEN / PICTURES).glob(f"*/{REQUEST}")]
    wanted = [place for place in found if not _is_taken(place)]
    return sorted(wanted, key=lambda place: float(read_object(place / REQUEST).get("asked", 0)))


def _is_taken(place: Path) -> bool:
    """Claimed by a process that lives, or done; what a killed one has left is drawn again."""
    if read_object(place / STATUS).get("state") in ("done", "failed"):
        return True
    claim = place / CLAIM
    if not claim.exists():
        return False
    if process_lives(read_object(claim)) is False:
        claim.unlink(missing_ok=True)
        return False
    return True


class Drawing:
    """Draws what is asked for in a batch's folder; for ``between`` of :func:`~singleinsert.batch.local.stay`."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.folder, self.say = folder, say

    def __call__(self, worker: Worker) -> bool:
        """Draw the oldest request; False where there is none."""
        for place in open_requests(self.folder):
            if make_exclusively(place / CLAIM, time.time()):
                self._draw(place, worker)
                return True
        return False

    def _draw(self, place: Path, worker: Worker) -> None:
        told = {key: value for key, value in read_object(place / REQUEST).items() if key != "asked"}
        try:
            wish = read_wish(told)
            self.say(f"drawing for {', '.join(wish.concepts)}: {wish.prompt}")
            write_status(place, "drawing", 0, wish.count)
            if wish.check:
                write_status(place, "done", 1, 1, check(self.folder, place, wish, worker))
                return
            if wish.edit:
                edit(self.folder, place, wish, worker)
            else:
                for done, _ in enumerate(draw(self.folder, place, wish, worker), start=1):
                    write_status(place, "drawing", done, wish.count)
            write_status(place, "done", wish.count, wish.count)
        except SingleInsertError as problem:
            write_status(place, "failed", 0, 0, str(problem))
        except Exception as problem:  # one request is not worth the worker
            worker.model.forget()
            write_status(place, "failed", 0, 0, f"{type(problem).__name__}: {first_line(problem)}")


def write_status(place: Path, state: str, done: int, of: int, reason: str = "") -> None:
    write_text(place / STATUS, json.dumps({"state": state, "done": done, "of": of, "reason": reason}) + "\n")


def draw(folder: Path, place: Path, wish: Wish, worker: Worker) -> Iterator[Path]:
    """Draw a wish's pictures; yields each file once it is whole."""
    from singleinsert.config.load import from_values
    from singleinsert.inference.pipeline import ConceptPipeline, Picture
    from singleinsert.locate import load_concept
    from singleinsert.training.accelerator import build_accelerator
    from singleinsert.training.files import RunFiles

    artifacts = [load_concept(folder / name) for name in wish.concepts]
    settings = from_values(_values_of(folder / wish.concepts[0], wish.concepts[0]))
    model = worker.model(settings, build_accelerator(settings, RunFiles(place, "pictures")))
    model.autoencoder.to(model.device)  # training has put it away
    pipeline = ConceptPipeline(model, artifacts)
    size = artifacts[0].metadata.get("resolution")
    try:
        number = 0
        for strength in [*([None] if wish.base else []), *wish.strengths]:
            pipeline.set_weights([strength or 0.0] * len(artifacts))
            prompt = wish.prompt if strength is not None else plain_prompt(wish.prompt, pipeline.names)
            pictures = [
                Picture(prompt, int(seed), "", int(wish.steps), float(wish.guidance_scale), size, size)
                for seed in wish.seeds
            ]
            if wish.attention:
                drawn = pipeline.render_with_attention(pictures, batch_size=1)
            else:
                drawn = ((image, {}) for image in pipeline.render(pictures, batch_size=1))
            for image, maps in drawn:
                path = place / f"{number:02d}.png"
                if maps:
                    save_maps(place, number, maps, image)
                write_png(image, path)
                number += 1
                yield path
    finally:
        pipeline.close()


def plain_prompt(prompt: str, names: Sequence[ConceptName]) -> str:
    """The prompt as the base model is asked: every concept is one of its class."""
    from singleinsert.inference.prompts import resolve, slot
    from singleinsert.placeholders import with_class_words

    return with_class_words(resolve(prompt, names), {slot(i): name.class_word for i, name in enumerate(names)})


def save_maps(place: Path, number: int, maps: Mapping[str, Tensor], image: Image) -> None:
    """The picture under each of its maps, and the maps' words."""
    from singleinsert.drawing.heat import heat_picture

    for index, heat in enumerate(maps.values()):
        write_png(heat_picture(image, heat), place / f"{number:02d}_map{index}.png")
    write_text(place / f"{number:02d}_maps.json", json.dumps(list(maps)) + "\n")


def write_png(image: Image, path: Path) -> None:
    write_atomically(path, lambda target: image.save(target, "PNG"))


def _values_of(folder: Path, name: str) -> dict[str, Any]:
    """The settings of a concept's run, for its base model and how that is loaded."""
    from singleinsert.config.load import read_values

    config = folder / f"{name}_config.toml"
    if not config.is_file():
        raise InputError(f"{folder} does not say which base model it is for: draw with infer_singleinsert.py")
    return read_values(config)


def edit(folder: Path, place: Path, wish: Wish, worker: Worker) -> None:
    """Redraw parts of a photo, as ``infer --edit`` does; its pictures are then numbered like others."""
    from singleinsert.cli import inference_parser
    from singleinsert.edit import edit_photo
    from singleinsert.inference.schedulers import SCHEDULERS

    worker.model.forget()  # two do not fit
    words = [word for name in wish.concepts for word in ("--concept", str(folder / name))]
    words += ["--prompt", wish.prompt, "--seed", str(wish.seeds[0]), "--num_images", str(len(wish.seeds))]
    words += ["--num_inference_steps", str(wish.steps), "--guidance_scale", str(wish.guidance_scale)]
    drawn = place / "drawn"
    edit_photo(inference_parser("", SCHEDULERS).parse_args([*words, *wish.edit, "--output_dir", str(drawn)]))
    pictures = sorted(path for path in drawn.glob("*.png") if not path.name.startswith("edit-"))
    for number, path in enumerate(pictures):
        path.rename(place / f"{number:02d}.png")


def check(folder: Path, place: Path, wish: Wish, worker: Worker) -> str:
    """Look whether the first concept has taken more with it than the subject; what was said, and ``00.png``."""
    from singleinsert.check import parser, run

    worker.model.forget()
    said = io.StringIO()
    words = [str(folder / wish.concepts[0]), "--num_images", str(len(wish.seeds)), "--grid", str(place / "00.png")]
    with contextlib.redirect_stdout(said):
        run(parser().parse_args(words))
    return "\n".join(line for line in said.getvalue().splitlines() if line.strip() != str(place / "00.png")).strip()
