"""Small evaluations on the tiny model, for the tests of the runner and of the report."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from batches import ENVIRONMENT, write_jobs
from PIL import Image

from singleinsert.evaluate.results import Results, Sample
from singleinsert.metrics.segments import Segment

PROMPTS = """title = "two"
[[prompt]]
text = "{concept} in the snow"
target = [{ question = "Is there snow?", label = { background = "snow" } }]
[[prompt]]
text = "a painting of {concept}, red hat"
target = [{ question = "Is it a painting?" }, { question = "Is there a red hat?" }]
"""
METHODS = """title = "Three"
[[method]]
name = "first"
label = "stage I"
settings.stage2.steps = 0
paper = { ESR = 0.5 }
[[method]]
name = "plain"
label = "plain"
group = "Stage II"
settings.stage2.objective = "full_image"
settings.stage2.loss_space = "epsilon"
paper = { ESR = 0.1 }
[[method]]
name = "whole"
label = "all losses"
group = "Stage II"
note = "the paper's"
[[claim]]
says = "stage I obeys"
column = "ESR"
of = "first"
against = "plain"
direction = "up"
"""


def bright(pictures: Sequence[Image.Image], targets: Sequence[Sequence[Any]]) -> list[list[bool]]:
    """A judge: a target is met where the picture's mean is above the k-th of three levels."""
    means = [np.asarray(picture).mean() for picture in pictures]
    return [[bool(mean > 120 + 8 * k) for k in range(len(row))] for mean, row in zip(means, targets, strict=True)]


class Halves:
    """A finder: the left half is a face, the right half is a cat, and there are no dogs."""

    name = "halves"

    def find(self, picture: Image.Image, word: str) -> list[Segment]:
        places = {"face": slice(0, picture.width // 2), "cat": slice(picture.width // 2, None)}
        if word not in places:
            return []
        mask = np.zeros((picture.height, picture.width), np.float32)
        mask[:, places[word]] = 1
        return [Segment(mask, 0.9)]


class Colours:
    """An encoder: mean colours as vectors, for pictures and for the words red and blue."""

    name = "colours"

    def images(self, pictures: Sequence[Image.Image]) -> torch.Tensor:
        means = [np.asarray(p.convert("RGB")).reshape(-1, 3).mean(0) - 127.5 for p in pictures]
        return torch.nn.functional.normalize(torch.tensor(np.stack(means), dtype=torch.float32), dim=-1)

    def texts(self, prompts: Sequence[str]) -> torch.Tensor:
        words = {"red": (1.0, 0.0, 0.0), "blue": (0.0, 0.0, 1.0)}
        return torch.tensor([next(v for w, v in words.items() if w in text) for text in prompts])


halves, colours = Halves(), Colours()


def arguments(
    folder: Path, model: Path, *more: str, out: str = "out", concepts: Sequence[str] = ("a", "b")
) -> list[str]:
    """``run`` on the tiny model: three methods, two prompts, two seeds, the judge above and no backbones."""
    (folder / "prompts.toml").write_text(PROMPTS)
    (folder / "three.toml").write_text(METHODS)
    jobs = write_jobs(folder, model, list(concepts))
    return [
        "run", "--methods", str(folder / "three.toml"), "--preset", "mini+plain", "--concepts", str(jobs),
        "--prompts", str(folder / "prompts.toml"), "--seeds", "2", "--batch_size", "3", "--attention", "1",
        "--masks", "none", "--clip", "none", "--dino", "none", "--lpips", "none", "--judge",
        "python:evaluations:bright",
        "--output_dir", str(folder / out), "--cache", str(folder / "cache"), *more,
    ]  # fmt: skip


def start(*words: str) -> subprocess.Popen[str]:
    """``python -m singleinsert.evaluate`` as a process of its own, which sees this module."""
    here = str(Path(__file__).parent)
    environment = {**ENVIRONMENT, "PYTHONPATH": os.pathsep.join([ENVIRONMENT["PYTHONPATH"], here])}
    command = [sys.executable, "-u", "-m", "singleinsert.evaluate", *words]
    return subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def made_up(folder: Path) -> tuple[Results, Any]:
    """Results of two methods on two concepts, with every kind of column, and what gives their pictures."""
    colors, samples, heats = {}, [], []
    rng = np.random.default_rng(0)
    for m, method in enumerate(("plain", "ours")):
        for c, concept in enumerate(("anna", "rex")):
            for prompt in range(2):
                for seed in (7, 8):
                    key = f"{method}-{concept}-{prompt}-{seed}"
                    colors[key] = tuple(int(v) for v in rng.integers(0, 255, 3))
                    values = {
                        "DINO-f": 0.3 + 0.1 * m + 0.05 * c + 0.01 * prompt,
                        "CLIP-T": 0.5 - 0.2 * m,
                        "ESR": m * 0.5,
                    }
                    samples.append(Sample(method, concept, prompt, seed, key, values, [bool(m), False][: prompt + 1]))
    for concept in ("anna", "rex"):
        path = folder / "concepts" / f"{concept}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), "teal").save(path)
    for method in ("plain", "ours"):
        files = {"*": f"{method}-0.png", "face": f"{method}-1.png"}
        for file in (*files.values(), f"{method}.png"):
            Image.new("RGB", (160, 160), "navy").save(folder / file)
        heats.append({"concept": "anna", "method": method, "prompt": 0, "picture": f"{method}.png", "maps": files})
    prompts = [
        {"text": "{concept} in the <snow> & ice", "questions": ["Is there snow?"]},
        {"text": "a sketch of {concept}", "questions": ["Is it a sketch?", "Is it \u201cgood\u201d?"]},
    ]
    methods = [
        {"name": "plain", "label": "plain </script>", "group": "Others", "note": "", "paper": {"ESR": 0.4},
         "settings": {"stage1.steps": 50}},
        {"name": "ours", "label": "SingleInsert", "group": "Ours", "note": "new", "paper": {"ESR": 0.9},
         "settings": {"stage1.steps": 100}},
    ]  # fmt: skip
    claim = {"says": "ours obeys", "column": "ESR", "of": "ours", "against": "plain", "direction": "up"}
    concepts = [
        {"name": name, "class_word": word, "picture": f"concepts/{name}.png", "prompts": prompts}
        for name, word in (("anna", "face"), ("rex", "dog"))
    ]
    facts = {"base_model": "mini-sd", "preset": "mini", "cache": "."}
    results = Results("Made up", facts, methods, [claim], concepts, samples, heats)
    return results, lambda key: Image.new("RGB", (64, 64), colors[key])
