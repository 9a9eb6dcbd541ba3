"""Jobs per hour of a batch against one launch per job, on the bundled miniature model. A quarter of an hour on a CPU.

    OMP_NUM_THREADS=1 python benchmarks/batch.py --launches 4 --folder output/twelve

Twelve drawn pictures of five classes, half of them with their mask, are learnt by one batch; the first few also by
train_singleinsert.py, each launched anew. Processor time is what is compared: it does not hang on who else computes.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from singleinsert.config.load import toml_string  # noqa: E402

COUNTS = {"face": 4, "cat": 2, "dog": 2, "cup": 2, "car": 2}
COMMON: dict[str, Any] = {
    "stage1.steps": 5,
    "stage2.steps": 5,
    "sample.num_inference_steps": 5,
    "sample.prompts": ["{concept}", "{concept} in the snow"],
}
"""Short enough for twelve of them to be a matter of minutes."""


def draw_jobs(folder: Path) -> list[dict[str, Any]]:
    """Twelve pictures of the drawn world in ``folder``; the job of each as a table of jobs.toml. Even ones have a mask,
    for the others it is found."""
    from testbed.instances import subjects, write_training_picture

    jobs = []
    for place, (name, scene) in enumerate(subjects(COUNTS)):
        picture, mask = write_training_picture(scene, folder / name)
        job = {"name": name, "image": str(picture), "class_word": scene.instances[0].cls, "seed": place}
        jobs.append(job | ({"mask": str(mask)} if place % 2 == 0 else {}))
    return jobs


def write_list(path: Path, jobs: Sequence[Mapping[str, Any]]) -> Path:
    """``jobs`` as a TOML file."""
    lines = ["[defaults]", 'preset = "mini"', *(f"{key} = {_written(value)}" for key, value in COMMON.items())]
    for job in jobs:
        lines += ["", "[[job]]", *(f"{key} = {_written(value)}" for key, value in job.items())]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def launch_of(job: Mapping[str, Any], folder: Path) -> list[str]:
    """The command that learns ``job`` by itself, into ``folder``."""
    flags = {"preset": "mini", "output_dir": str(folder), "output_name": job["name"]}
    flags |= {key: str(value) for key, value in job.items() if key != "name"}
    words = [word for key, value in flags.items() for word in (f"--{key}", value)]
    words += [word for key, value in COMMON.items() for word in ("--set", f"{key}={_written(value)}")]
    return [sys.executable, str(ROOT / "train_singleinsert.py"), *words]


def _written(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_written, value))}]"
    return toml_string(value) if isinstance(value, str) else str(value)


def spent(command: Sequence[str | Path]) -> tuple[float, float]:
    """(seconds of processor time of a command and all its processes, seconds by the clock)."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1"}
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([str(word) for word in command], check=True, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return used, time.perf_counter() - started


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--launches", type=int, default=4, metavar="N", help="jobs to launch one by one (default 4)")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="a new one, which is kept")
    args = parser.parse_args(argv)
    folder = args.folder or Path(tempfile.mkdtemp(prefix="singleinsert-"))
    jobs = draw_jobs(folder / "pictures")
    source = write_list(folder / "jobs.toml", jobs)
    shown = jobs[:: max(1, len(jobs) // args.launches)][: args.launches]
    alone = [spent(launch_of(job, folder / "alone" / job["name"])) for job in shown]
    batch = spent([sys.executable, "-m", "singleinsert.batch", source, "--output_dir", folder / "batch"])
    for label, used, clock, count in (
        ("one launch per job", sum(a for a, _ in alone), sum(b for _, b in alone), len(alone)),
        ("one batch", *batch, len(jobs)),
    ):
        rate = f"{3600 * count / used:.0f} jobs per hour of a free core, {3600 * count / clock:.0f} by the clock"
        print(f"{label}: {count} jobs, {used / count:.1f} s of processor time each; {rate}")
    ratio = (sum(a for a, _ in alone) / len(alone)) / (batch[0] / len(jobs))
    print(f"the batch does {ratio:.2f} times as many in the same processor time")
    return 0


if __name__ == "__main__":
    sys.exit(main())
