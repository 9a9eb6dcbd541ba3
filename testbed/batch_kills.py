"""A batch on two workers that are killed again and again, against one that was never disturbed.

    OMP_NUM_THREADS=1 python -m testbed.batch_kills --out testbed/runs/kills      ten minutes on two cores

Eight drawn pictures are learnt on mini-sd by two processes of `python -m singleinsert.batch` on one output folder. Each
is killed with SIGKILL, now and then both at once, and started again, until there were --kills of them; then they are
left alone. Another process does the same jobs by itself. Exit code 1 where any tensor, picture or name of a file
differs, or where something hidden or temporary is left.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from PIL import Image
from safetensors.torch import load_file

from singleinsert.atomic import write_text
from singleinsert.config.load import toml_string

from .instances import subjects, write_training_picture

ROOT = Path(__file__).resolve().parent.parent
COUNTS = {"face": 3, "cat": 2, "dog": 1, "cup": 1, "car": 1}
DEFAULTS = """[defaults]
preset = "mini"
stage1.steps = 40
stage2.steps = 40
sample.num_inference_steps = 5
sample.prompts = ["{concept}", "{concept} in the snow"]
run.checkpointing_steps = 4
"""
AT_ANY_TIME, BOTH = 0.15, 0.2
"""Share of the kills that do not wait for training to begin, and of those that hit the other worker as well."""
BEFORE, LOADING, TRAINING = "before a job", "loading", "in a job"


class Worker:
    """One process of the batch in a group of its own, and when it is to be killed."""

    def __init__(self, command: list[str], out: Path, log: Path, longest: float, rng: random.Random) -> None:
        with log.open("a") as said:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=said, stderr=said,
                start_new_session=True,
            )  # fmt: skip
        self.out, self.since = out, time.monotonic()
        self.waits_for_training, self.wait = rng.random() >= AT_ANY_TIME, rng.uniform(0, longest)

    def where(self) -> str:
        """What it is doing; LOADING are the imports, the model and the mask."""
        for path in (self.out / ".batch/state").glob("*.json"):
            try:
                record = json.loads(path.read_text())
            except (OSError, ValueError):  # being made
                continue
            if record["state"] == "running" and record["pid"] == self.process.pid:
                name = path.stem.rpartition(".")[0]
                begun = (self.out / ".batch/work" / path.stem / "logs" / name / "events.jsonl").exists()
                return TRAINING if begun else LOADING
        return BEFORE

    def due(self) -> bool:
        """Is it time to kill it?"""
        if self.waits_for_training:
            if self.where() != TRAINING:
                return False
            self.waits_for_training, self.since = False, time.monotonic()
        return time.monotonic() - self.since >= self.wait

    def kill(self) -> str:
        """Kill its group; where it was."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        return self.where()


def write_jobs(folder: Path) -> tuple[Path, list[str]]:
    """The pictures and their list, every second with its mask; (list, names)."""
    lines, names = [DEFAULTS], []
    for place, (name, scene) in enumerate(subjects(COUNTS)):
        picture, mask = write_training_picture(scene, folder / name)
        lines += ["[[job]]", f'name = "{name}"', f'class_word = "{scene.instances[0].cls}"', f"seed = {place}"]
        lines += [f"image = {toml_string(str(picture))}"] + [f"mask = {toml_string(str(mask))}"] * (place % 2 == 0)
        names.append(name)
    write_text(folder / "jobs.toml", "\n".join(lines) + "\n")
    return folder / "jobs.toml", names


def disturb(command: list[str], out: Path, log: Path, kills: int, longest: float, rng: random.Random) -> list[str]:
    """Two workers, killed and started again; where each kill hit. Returns when the batch is done."""
    workers, hits = [Worker(command, out, log, longest, rng) for _ in range(2)], list[str]()
    try:
        while len(hits) < kills:
            time.sleep(0.02)
            for place, worker in enumerate(workers):
                if worker.process.poll() is not None:
                    raise SystemExit(f"a worker ended by itself after {len(hits)} kills: see {log}")
                if len(hits) < kills and worker.due():
                    victims = [place, 1 - place] if rng.random() < BOTH and len(hits) + 1 < kills else [place]
                    hits += [workers[victim].kill() for victim in victims]
                    for victim in victims:
                        workers[victim] = Worker(command, out, log, longest, rng)
                    print(f"{len(hits)} kills: {hits[-len(victims) :]}", flush=True)
    except BaseException:
        for worker in workers:
            if worker.process.poll() is None:
                worker.kill()
        raise
    if any([worker.process.wait() for worker in workers]):
        print("a job had taken three workers down and was given up; started once more")
        subprocess.run(command, cwd=ROOT, check=True)
    return hits


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def differences(ours: Path, theirs: Path) -> list[str]:
    """What is not equal in two folders of one concept: names of files, tensors, pixels."""
    names, others = files_of(ours), files_of(theirs)
    found = [f"{ours.name}: only in one: {name}" for name in sorted(names ^ others)]
    for name in sorted(names & others):
        if name.endswith(".safetensors"):
            a, b = load_file(ours / name), load_file(theirs / name)
            same = a.keys() == b.keys() and all(a[key].equal(b[key]) for key in a)
        elif name.endswith(".png"):
            with Image.open(ours / name) as one, Image.open(theirs / name) as other:
                same = (one.mode, one.size, one.tobytes()) == (other.mode, other.size, other.tobytes())
        elif name.endswith(".csv"):
            same = (ours / name).read_text() == (theirs / name).read_text()
        else:
            continue  # times of day and such
        found += [] if same else [f"{ours.name}: differs: {name}"]
    return found


def leftovers(out: Path) -> list[str]:
    """What no finished batch holds."""
    work = list((out / ".batch/work").iterdir())
    return [str(p.relative_to(out)) for p in [*out.rglob(".*"), *work] if p != out / ".batch"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m testbed.batch_kills", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="a new folder")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--longest", type=float, default=8, help="seconds that a worker trains before it is killed")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    folder = args.out.resolve()
    source, names = write_jobs(folder)
    command = [sys.executable, "-u", "-m", "singleinsert.batch", str(source), "--output_dir"]
    alone, killed = folder / "alone", folder / "killed"
    undisturbed = Worker([*command, str(alone)], alone, folder / "alone.log", 0, random.Random())
    rng = random.Random(args.seed)
    hits = disturb([*command, str(killed)], killed, folder / "killed.log", args.kills, args.longest, rng)
    if undisturbed.process.wait():
        raise SystemExit(f"the undisturbed batch failed: see {folder / 'alone.log'}")

    found = [line for name in names for line in differences(killed / name, alone / name)]
    found += [f"left over: {name}" for name in leftovers(killed)]
    tries = [path.name.split(".")[0] for path in (killed / ".batch/state").glob("*.json")]
    compared = Counter(Path(name).suffix for job in names for name in files_of(killed / job))
    print(f"{len(hits)} kills {dict(Counter(hits))}, {len(names)} jobs, {len(tries)} tries, at most "
          f"{max(Counter(tries).values())} at a job; compared {dict(compared)}: {len(found)} differences")  # fmt: skip
    print(*found, sep="\n")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
