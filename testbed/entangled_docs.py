"""The page on the look after training: what it says of concepts beside what the judge reads, and their agreement."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np
from PIL import Image
from torch import Tensor

from singleinsert.drawing.grid import make_grid
from singleinsert.models.family import Family
from singleinsert.training.entanglement import Reference, measure
from singleinsert.training.explained import errors_under, kept, phrasings_of, returned_phrase

from .docs import IMAGES, RESEARCH, fill_block, save_picture
from .entangled import TrainedRun, description
from .judge import Judge, Reading
from .world.scene import draw

VERDICT = 0.5
"""The judge calls a concept entangled where at least this share of what the class word leaves open has come back."""
RESAMPLES, SEED = 5000, 0
KINDS = ("background", "pose", "hat")
SAME, OTHER = "the same", "others"
"""Pictures that the judge reads: those that the look has measured, or as many from other noise."""
SHOWN = ("no mask, short", "described, short", "mask, short", "box, short")


Shares = dict[str, float | None]
"""Kind -> (u - u0) / (1 - u0), u the share of pictures that have the training picture's place (its side, a hat), u0 the
same of the class word's; None where the training picture has no hat."""


@dataclass(frozen=True)
class Row:
    """A concept: what the look measured by kind, and what the judge read in which pictures."""

    run: TrainedRun
    look: dict[str, float | None]
    judge: dict[str, Shares]

    def looked(self, kind: str) -> float:
        return self.look[kind] or 0.0

    def verdict(self, kind: str, which: str) -> bool:
        share = self.judge[which][kind]
        return share is not None and share >= VERDICT


def row_of(run: TrainedRun, latents: dict[str, Tensor], model: Family, judge: Judge) -> Row:
    """Measure and judge one concept from its latents (see `entangled.collect`)."""
    reference = Reference(**{field.name: latents[field.name] for field in fields(Reference)})
    seen = measure("*", latents["drawn"], latents["plain"], [reference])
    pairs = {SAME: ("drawn", "plain"), OTHER: ("judged", "judged_plain")}
    read = {
        which: judged(run, model.decode(latents[drawn]), model.decode(latents[plain]), judge)
        for which, (drawn, plain) in pairs.items()
    }
    return Row(run, {"background": seen.background, "pose": seen.pose, "hat": hat_of(run, latents, model)}, read)


def judged(run: TrainedRun, drawn: list[Image.Image], plain: list[Image.Image], judge: Judge) -> Shares:
    """What the judge finds of the scene in the concept's pictures, beyond the class word's."""
    scene, cls = run.scene, run.scene.instances[0].cls
    tests: dict[str, Callable[[Reading], bool] | None] = {
        "background": lambda reading: reading["background"].value == scene.background,
        "pose": lambda reading: reading["view"].value == scene.view,
        "hat": None if scene.edits[0]["hat"] == "none" else lambda reading: reading["hat"].value != "none",
    }
    concept, word = (judge.read(images, [cls] * len(images)) for images in (drawn, plain))
    return {kind: None if test is None else came_back(concept, word, test) for kind, test in tests.items()}


def hat_of(run: TrainedRun, latents: dict[str, Tensor], model: Family) -> float | None:
    """The measure of the phrase that says the hat, whether training was told of it or not."""
    words = phrasings_of([description(run.scene)], run.scene.instances[0].cls)
    hats = [each for each in words if each.text.startswith("wearing")]

    def errors(x: Tensor, prompt: str) -> Tensor:
        return errors_under(model, model.encode(model.tokenize(prompt, {}), {}), x)

    x = (latents[key] for key in ("drawn", "plain", "latents"))
    return returned_phrase(kept(errors), hats[0], *x) if hats else None


def came_back(drawn: Sequence[Reading], plain: Sequence[Reading], test: Callable[[Reading], bool]) -> float:
    """``(u - u0) / (1 - u0)``; 0 where the class word has it in every picture."""
    u, u0 = (statistics.mean(map(test, readings)) for readings in (drawn, plain))
    return (u - u0) / (1 - u0) if u0 < 1 else 0.0


# --- agreement --------------------------------------------------------------------------------------------------------
Pairs = Sequence[tuple[float, float]]
"""What the look measured and what the judge read, of concepts."""


def auc(pairs: Pairs) -> float | None:
    """How often an entangled concept has the higher number than another one; ties count half. None without both."""
    yes, no = ([x for x, y in pairs if (y >= VERDICT) is is_yes] for is_yes in (True, False))
    if not yes or not no:
        return None
    return statistics.mean((a > b) + 0.5 * (a == b) for a in yes for b in no)


def rank_correlation(pairs: Pairs) -> float | None:
    """Spearman's."""
    if len(pairs) < 3:
        return None
    x, y = (ranks([pair[k] for pair in pairs]) for k in (0, 1))
    return None if x.std() == 0 or y.std() == 0 else float(np.corrcoef(x, y)[0, 1])


def ranks(values: Sequence[float]) -> np.ndarray:
    """From 0; equal values share the mean of theirs."""
    data = np.asarray(values)
    return np.array([(data < v).sum() + ((data == v).sum() - 1) / 2 for v in data], dtype=float)


def with_interval(rows: Sequence[Row], kind: str, which: str, statistic: Callable[[Pairs], float | None]) -> str:
    """The statistic and its 95 % bootstrap interval over instances; draws in which it does not exist are left out."""
    by_instance: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for row in rows:
        by_instance[row.run.scene.seed].append((row.looked(kind), row.judge[which][kind] or 0.0))
    groups, rng = list(by_instance.values()), np.random.default_rng(SEED)
    value = statistic([pair for group in groups for pair in group])
    if value is None:
        return "-"
    draws = (
        statistic([pair for k in rng.integers(0, len(groups), len(groups)) for pair in groups[k]])
        for _ in range(RESAMPLES)
    )
    low, high = np.quantile([draw for draw in draws if draw is not None], [0.025, 0.975])
    return f"{value:.2f} ({low:.2f} to {high:.2f})"


def best_threshold(rows: Sequence[Row], kind: str) -> float:
    """The middle between two neighbours with the fewest wrong verdicts; of several, the lowest and highest's mean."""
    values = sorted({row.looked(kind) for row in rows})
    middles = [(a + b) / 2 for a, b in pairwise(values)]
    wrong = {m: sum((row.looked(kind) > m) is not row.verdict(kind, OTHER) for row in rows) for m in middles}
    best = [m for m in middles if wrong[m] == min(wrong.values())]
    return (best[0] + best[-1]) / 2


def agreement(rows: Sequence[Row], limits: dict[str, float]) -> str:
    """A table by measure and set: rank correlation, AUC, and what the line's verdict gets right."""
    head = [
        "",
        "set",
        "the judge's pictures",
        "concepts",
        "entangled",
        "rank correlation",
        "AUC",
        "found",
        "false alarms",
    ]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for kind in KINDS:
        for purpose, which in (("choose", OTHER), ("report", OTHER), ("report", SAME)):
            these = [r for r in rows if r.run.purpose == purpose and r.judge[which][kind] is not None]
            yes = [r for r in these if r.verdict(kind, which)]
            said = [r for r in these if r.looked(kind) > limits[kind]]
            both = sum(r in yes for r in said)
            tests = [with_interval(these, kind, which, statistic) for statistic in (rank_correlation, auc)]
            cells = [
                kind, purpose, which, str(len(these)), str(len(yes)), *tests, f"{both} of {len(yes)}",
                f"{len(said) - both} of {len(these) - len(yes)}",
            ]  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


# --- the page ---------------------------------------------------------------------------------------------------------
def table(rows: Sequence[Row]) -> str:
    """Every concept, those that chose before those that report. The judge's pictures are other ones than the look's."""
    lines = [
        "| set | trained | scene | background: look | judge | pose: look | judge | hat: look | judge |",
        "|---" * 9 + "|",
    ]
    for row in sorted(rows, key=lambda r: (r.run.purpose, r.run.scene.seed, r.run.how)):
        scene = row.run.scene
        shown = f"{scene.instances[0].cls}, {scene.background}, {scene.view}, {scene.edits[0]['hat']}"
        cells = [shares(value) for kind in KINDS for value in (row.look[kind], row.judge[OTHER][kind])]
        lines.append(f"| {row.run.purpose} | {row.run.how} | {shown.replace(', none', '')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def shares(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"


def picture(found: Sequence[tuple[TrainedRun, dict[str, Tensor]]], rows: Sequence[Row], model: Family) -> Image.Image:
    """Of each way to train the first concept that reports: the training picture, then the look's pictures."""
    images: list[list[Image.Image]] = []
    captions: list[str] = []
    for how in SHOWN:
        place = next((k for k, (run, _) in enumerate(found) if run.how == how and run.purpose == "report"), None)
        if place is not None:
            run, latents = found[place]
            images.append([draw(run.scene, masks=False).image, *model.decode(latents["drawn"])])
            captions.append(
                f"{how}: background {shares(rows[place].look['background'])}, pose {shares(rows[place].look['pose'])}"
            )
    return make_grid(images, captions)


def write_page(found: Sequence[tuple[TrainedRun, dict[str, Tensor]]], model: Family, judge: Judge) -> None:
    """Tables and picture of all concepts that are there, into docs/research/entanglement.md."""
    rows = [row_of(run, latents, model, judge) for run, latents in found]
    chosen = [row for row in rows if row.run.purpose == "choose"]
    limits = {kind: best_threshold([r for r in chosen if r.judge[OTHER][kind] is not None], kind) for kind in KINDS}
    text = agreement(rows, limits) + "\n\n" + "; ".join(f"{kind} above {limits[kind]:.2f}" for kind in KINDS)
    page = RESEARCH / "entanglement.md"
    fill_block(page, "agreement", text)
    fill_block(page, "concepts", table(rows))
    save_picture(picture(found, rows, model), IMAGES / "entanglement.png")
    print(text)
