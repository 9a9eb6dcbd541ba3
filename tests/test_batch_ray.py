"""A batch on Ray's local cluster, with its processes killed: a worker, then the head. make test-ray"""

import json
import signal

import psutil
import pytest
from batches import learnt, same_to_the_bit, start, until, write_jobs
from runs import QUIET

from singleinsert.batch.cluster import resources
from singleinsert.batch.jobs import read_jobs
from singleinsert.training.run import train

pytestmark = pytest.mark.ray

NAMES = [f"job{i}" for i in range(6)]


def actors(head):
    """Ray's processes that hold a trainer."""
    family = psutil.Process(head.pid).children(recursive=True)
    return [p for p in family if "Trainer" in " ".join(p.cmdline()) or "Trainer" in p.name()]


def test_a_worker_and_the_head_are_killed_and_the_rerun_completes(tiny_sd, tmp_path):
    source, out = write_jobs(tmp_path, tiny_sd, NAMES), tmp_path / "out"
    head = start(source, "--output_dir", out, "--ray", "--workers", "2")
    until(head, "done in")
    (victim, *_) = actors(head)
    victim.send_signal(signal.SIGKILL)
    until(head, "its worker was lost")
    until(head, "done in")
    workers = actors(head)
    head.send_signal(signal.SIGKILL)
    head.wait()
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert workers and not alive  # those of a cluster that was started here do not outlive its head
    names = {path.name for path in out.iterdir() if path.is_dir() and not path.name.startswith(".")}
    assert 2 <= len(names) < len(NAMES)
    for name in names:
        record = json.loads((out / name / f"{name}_job.json").read_text())
        assert all((out / name / file).stat().st_size == size for file, size in record["files"].items())

    again = start(source, "--output_dir", out, "--ray", "--workers", "2")
    said, _ = again.communicate(timeout=900)
    assert again.returncode == 0 and "6 of 6 done" in said, said
    jobs, _ = read_jobs(source, out)
    for job in jobs:
        alone = train(job.settings, folder=tmp_path / "alone" / job.name, watch=QUIET).artifact
        assert same_to_the_bit(learnt(out, job.name), alone), job.name
    assert not list((out / ".batch/work").iterdir())


def test_results_go_to_an_url_and_pictures_travel(tiny_sd, tmp_path):
    """A job that cannot work, too; the head's folder holds the states alone."""
    source, out = write_jobs(tmp_path, tiny_sd, ["good", "bad"], {}, {"image": "none.png"}), tmp_path / "out"
    url = f"file://{tmp_path}/bucket"
    head = start(source, "--output_dir", out, "--ray", "--results", url)
    said, _ = head.communicate(timeout=900)
    assert head.returncode == 1 and "bad: failed: picture not found" in said, said
    assert (tmp_path / "bucket/good/good_lora.safetensors").is_file() and (tmp_path / "bucket/index.html").is_file()
    assert not (out / "good").exists()


def test_what_a_worker_takes():
    assert resources({"CPU": 64.0, "GPU": 8.0}, 0) == ({"num_gpus": 1, "num_cpus": 1}, 8)
    assert resources({"CPU": 64.0, "GPU": 8.0}, 4) == ({"num_gpus": 1, "num_cpus": 1}, 4)
    assert resources({"CPU": 16.0}, 0) == ({"num_cpus": 16}, 1)
    assert resources({"CPU": 16.0}, 3) == ({"num_cpus": 5}, 3)
