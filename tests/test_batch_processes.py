"""Several worker processes on one folder, killed without a word. Each takes seconds to start, so there are few."""

import json
import signal

from batches import learnt, same_to_the_bit, start, until, write_jobs
from runs import QUIET

from singleinsert.artifact import Artifact
from singleinsert.batch.jobs import read_jobs
from singleinsert.training.run import train

NAMES = [f"job{i:02d}" for i in range(12)]


def visible(out):
    """Concepts that a user sees, each of which must be whole."""
    names = [path.name for path in out.iterdir() if path.is_dir() and not path.name.startswith(".")]
    for name in names:
        record = json.loads((out / name / f"{name}_job.json").read_text())
        assert all((out / name / file).stat().st_size == size for file, size in record["files"].items())
        Artifact.load(out / name / f"{name}_artifact.safetensors")
    return set(names)


def assert_like_single_runs(source, out, folder, names):
    jobs, _ = read_jobs(source, out)
    for job in jobs:
        if job.name in names:
            alone = train(job.settings, folder=folder / job.name, watch=QUIET).artifact
            assert same_to_the_bit(learnt(out, job.name), alone), job.name


def test_twelve_jobs_on_two_workers_one_of_them_killed_then_both(tiny_sd, tmp_path):
    """A launcher's two processes. The job of a killed worker is taken up by the other; then that one is killed, too."""
    source, out = write_jobs(tmp_path, tiny_sd, NAMES), tmp_path / "out"
    rank = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    workers = [start(source, "--output_dir", out, RANK=str(i), LOCAL_RANK=str(i), **rank) for i in range(2)]
    until(workers[0], "done in")
    until(workers[0], "begins")
    workers[0].send_signal(signal.SIGKILL)
    workers[0].wait()
    lost = [p for p in (out / ".batch/state").glob("*.001.json") if json.loads(p.read_text())["pid"] == workers[0].pid]
    (taken,) = [path for path in lost if json.loads(path.read_text())["state"] == "running"]
    until(workers[1], f"{taken.name.split('.')[0]}: begins")
    workers[1].send_signal(signal.SIGKILL)
    workers[1].wait()
    done = visible(out)
    assert 0 < len(done) < 12
    stamps = {name: (out / name / f"{name}_artifact.safetensors").stat().st_mtime_ns for name in done}

    again = start(source, "--output_dir", out)
    said, _ = again.communicate(timeout=600)
    assert again.returncode == 0, said
    assert f"{len(done)} of 12 done" in said.splitlines()[0] and "12 of 12 done" in said
    assert visible(out) == set(NAMES) and (out / "index.html").read_text().count("_sheet.png") >= 12
    assert all((out / n / f"{n}_artifact.safetensors").stat().st_mtime_ns == t for n, t in stamps.items())
    assert not list((out / ".batch/work").iterdir())
    assert_like_single_runs(source, out, tmp_path / "alone", ["job00", taken.name.split(".")[0], "job11"])
