"""Small batches on the tiny model, for the tests of the batch, and their processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from runs import SMALL, draw_subject

from singleinsert.artifact import Artifact
from singleinsert.config.load import toml_string

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def write_jobs(folder: Path, model: Path, names: str | list[str], *changes: dict[str, Any], **defaults: Any) -> Path:
    """jobs.toml of a job per name, its seed its place; ``changes`` in the same order, ``defaults`` with ``__``."""
    image, mask = draw_subject(folder / "input")
    common = SMALL | {"model.pretrained_model_name_or_path": str(model), "data.mask": str(mask)}
    common |= {key.replace("__", "."): value for key, value in defaults.items()}
    lines = ["[defaults]", *(f"{key} = {written(value)}" for key, value in common.items())]
    for place, name in enumerate(names):
        job = {"name": name, "image": str(image), "seed": place} | (changes[place] if place < len(changes) else {})
        lines += ["[[job]]", *(f"{key} = {written(value)}" for key, value in job.items())]
    path = folder / "jobs.toml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def written(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return toml_string(value) if isinstance(value, str) else str(value)


def start(*words: str | Path, **environment: str) -> subprocess.Popen[str]:
    """``python -m singleinsert.batch`` as a process of its own."""
    command = [sys.executable, "-u", "-m", "singleinsert.batch", *map(str, words)]
    return subprocess.Popen(
        command, env={**ENVIRONMENT, **environment}, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def until(process: subprocess.Popen[str], text: str) -> str:
    """Read what the process prints up to a line that holds ``text``; returns all of it."""
    said = []
    assert process.stdout is not None
    for line in process.stdout:
        said.append(line)
        if text in line:
            return "".join(said)
    raise AssertionError(f"{text!r} never came: {''.join(said)}")


def tensors(artifact: Artifact) -> dict[str, torch.Tensor]:
    """Everything that was learnt, whatever the run and its concepts are called."""
    flat = {f"{i}.{part}": v for i, concept in enumerate(artifact.concepts) for part, v in concept.embeddings.items()}
    for component, layers in artifact.lora.items():
        for path, lora in layers.items():
            flat |= {f"{component}.{path}.down": lora.down, f"{component}.{path}.up": lora.up}
    return flat


def same_to_the_bit(a: Artifact, b: Artifact) -> bool:
    first, second = tensors(a), tensors(b)
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def learnt(out: Path, name: str) -> Artifact:
    return Artifact.load(out / name / f"{name}_artifact.safetensors")
