"""Twelve concepts on mini-sd, learnt by two processes that are killed in the middle; then again, to the end.

    pytest -m slow tests/test_batch_mini.py     two processes of PyTorch's launcher; ten minutes
    pytest -m ray tests/test_batch_mini.py      two actors on Ray's local cluster; likewise

Every result must be that of its own launch of train_singleinsert.py, to the bit.
"""

import json
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from batches import ENVIRONMENT, learnt, same_to_the_bit, start, until
from PIL import Image
from safetensors.torch import load_file

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from batch import draw_jobs, launch_of, write_list  # noqa: E402

from singleinsert.artifact import Artifact  # noqa: E402

LAUNCHER = ("-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "singleinsert.batch")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """(the list, its jobs, folder of what single launches learn of them, made when it is first asked for)"""
    folder = tmp_path_factory.mktemp("twelve")
    jobs = draw_jobs(folder / "pictures")
    assert len(jobs) == 12 and len({job["class_word"] for job in jobs}) == 5
    return write_list(folder / "jobs.toml", jobs), jobs, folder / "alone"


def alone(job, folder):
    """The folder of a launch of train_singleinsert.py by itself."""
    if not (folder / job["name"]).is_dir():
        environment = {**ENVIRONMENT, "TQDM_DISABLE": "1"}
        done = subprocess.run(launch_of(job, folder / job["name"]), env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return folder / job["name"]


def finished(out):
    """Names of the concepts that can be seen, each of which is whole."""
    names = {path.name for path in out.iterdir() if path.is_dir() and not path.name.startswith(".")}
    for name in names:
        record = json.loads((out / name / f"{name}_job.json").read_text())
        assert all((out / name / file).stat().st_size == size for file, size in record["files"].items())
    return names


def assert_all_like_single_launches(out, pictures):
    _, jobs, folder = pictures
    assert finished(out) == {job["name"] for job in jobs} and not list((out / ".batch/work").iterdir())
    for job in jobs:
        name, single = job["name"], alone(job, folder)
        assert same_to_the_bit(learnt(out, name), Artifact.load(single / f"{name}_artifact.safetensors")), name
        for end in ("", "_lora"):
            ours, theirs = (load_file(place / f"{name}{end}.safetensors") for place in (out / name, single))
            assert ours.keys() == theirs.keys() and all(ours[key].equal(theirs[key]) for key in ours), name + end
        ours, theirs = (Image.open(place / f"{name}_sheet.png").tobytes() for place in (out / name, single))
        assert ours == theirs, name


@pytest.mark.slow
def test_two_processes_of_a_launcher_one_killed(pictures, tmp_path):
    source, out = pictures[0], tmp_path / "out"
    words = [sys.executable, "-u", *LAUNCHER, source, "--output_dir", out]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    launcher = subprocess.Popen(words, env=ENVIRONMENT, text=True, **streams)
    for _ in range(4):
        until(launcher, "done in")
    until(launcher, "begins")
    states = [json.loads(path.read_text()) for path in (out / ".batch/state").glob("*.json")]
    at_work = [state["pid"] for state in states if state["state"] == "running"]
    assert {psutil.Process(pid).ppid() for pid in at_work} == {launcher.pid}
    psutil.Process(at_work[0]).send_signal(signal.SIGKILL)
    launcher.communicate(timeout=600)
    assert launcher.returncode != 0 and 4 <= len(before := finished(out)) < 12

    again = subprocess.run(words, env=ENVIRONMENT, text=True, capture_output=True, timeout=3600)
    assert again.returncode == 0 and "12 of 12 done" in again.stdout, again.stdout + again.stderr
    assert not any(f"{name}: begins" in again.stdout for name in before)
    assert_all_like_single_launches(out, pictures)


@pytest.mark.ray
def test_two_actors_of_a_local_cluster_one_killed_then_the_head(pictures, tmp_path):
    source, out = pictures[0], tmp_path / "out"
    words = (source, "--output_dir", out, "--ray", "--workers", "2")
    head = start(*words)
    for _ in range(3):
        until(head, "done in")
    family = psutil.Process(head.pid).children(recursive=True)
    actors = [p for p in family if "Trainer" in " ".join(p.cmdline())]
    assert len(actors) == 2
    actors[0].send_signal(signal.SIGKILL)
    until(head, "its worker was lost")
    for _ in range(2):
        until(head, "done in")
    head.send_signal(signal.SIGKILL)
    head.communicate(timeout=600)
    psutil.wait_procs(family, timeout=60)
    assert 5 <= len(before := finished(out)) < 12

    again = start(*words)
    said, _ = again.communicate(timeout=3600)
    assert again.returncode == 0 and "12 of 12 done" in said, said
    assert not any(f"{name}: begins" in said for name in before)
    assert_all_like_single_launches(out, pictures)
