"""A process may be killed anywhere, and two may want one name: nothing is half there, and nothing is mixed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from typing import Any

import pytest
from batches import ENVIRONMENT, until
from runs import small_values
from safetensors import safe_open

from singleinsert import claims
from singleinsert.artifact import Artifact
from singleinsert.batch import local
from singleinsert.batch.local import work_folder
from singleinsert.batch.store import FolderStore
from singleinsert.batch.worker import Outcome
from singleinsert.claims import claimed
from singleinsert.config import load_settings
from singleinsert.errors import InputError
from singleinsert.training.checkpoint import checkpoints, load_checkpoint
from singleinsert.training.files import RunFiles
from singleinsert.work import queue as queue_module
from singleinsert.work.queue import DONE, Queue

RUNS = """
import json, os, sys
from pathlib import Path
from singleinsert.config import load_settings
from singleinsert.insert import insert_concepts
from singleinsert.training import run        # imported once for all of them
values = json.loads(Path(sys.argv[1]).read_text())
replace = os.replace
def run_killed(when):
    count = 0
    def killing(source, target):
        nonlocal count
        count += 1
        if count == (when + 1) // 2 and when % 2:      # before the rename
            os._exit(77)
        replace(source, target)
        if count == when // 2 and not when % 2:        # after it
            os._exit(77)
    os.replace = killing
    insert_concepts(load_settings(None, None, values), overwrite=True)
    print("renames:", count)
for line in sys.stdin:
    child = os.fork()
    if not child:
        run_killed(int(line))
        break
    _, status = os.waitpid(child, 0)
    print("ended with code", os.waitstatus_to_exitcode(status), flush=True)
"""


@contextmanager
def runs_of(values: Path) -> Iterator[Callable[[int], tuple[int, str]]]:
    """A function that runs ``values`` in a process of its own, killed at a rename: exit code, and what it said."""
    command = [sys.executable, "-u", "-c", RUNS, str(values)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, env=ENVIRONMENT, text=True, start_new_session=True, **pipes) as process:

        def run(when: int) -> tuple[int, str]:
            assert process.stdin is not None
            limit = Timer(300, os.killpg, (process.pid, signal.SIGKILL))
            limit.start()
            try:
                process.stdin.write(f"{when}\n")
                process.stdin.flush()
                said = until(process, "ended with code ")
            finally:
                limit.cancel()
            return int(said.splitlines()[-1].split()[-1]), said

        yield run


def readable(folder: Path) -> None:
    """Whatever has its own name is whole."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.name.startswith(".") and path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                assert len(list(file.keys())) > 0
    for path in checkpoints(folder / "checkpoints" / "pic"):
        load_checkpoint(path)


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*") if path.is_file()]


LONG = bool(os.environ.get("SINGLEINSERT_LONG_TESTS"))


@pytest.mark.parametrize("first", range(1, 40) if LONG else (2, 7))
def test_killed_before_and_after_renames_twice(tiny_sd, tmp_path, first):
    """Killed at a rename, killed again at another, and then left alone: the artifact is the undisturbed one's."""
    values = small_values(tmp_path, tiny_sd, run__checkpointing_steps=2, stage1__steps=2, stage2__steps=2)
    values |= {"run.resume_from_checkpoint": "latest"}
    file = tmp_path / "values.json"
    file.write_text(json.dumps(values))
    out = tmp_path / "out"
    with runs_of(file) as run:
        for when in (first, first + 3):
            code, said = run(when)
            assert code in (77, 0), said
            readable(out)
            if code == 0:
                return  # fewer renames than that
        code, said = run(10_000)
    if code:  # finished but for the clients' files, which the line says how to make
        assert "python -m singleinsert.export" in said and "Traceback" not in said, said
    else:
        assert "renames:" in said
    readable(out)
    assert hidden(out) == [] and Artifact.load(out / "pic_artifact.safetensors").name == "pic"


def test_what_killed_writes_left_is_removed_by_the_next_run_of_that_name(tmp_path):
    files = RunFiles(tmp_path, "anna")
    own = ["anna_artifact.safetensors", "anna_lora.safetensors", "anna_config.toml", "anna_mask.png"]
    others = ["anna2_artifact.safetensors", "anna_b_lora.safetensors", "bob.safetensors"]
    for name in own + others:
        (tmp_path / f".{name}.abcd1234.part.safetensors").write_text("half")
    files.checkpoints.mkdir(parents=True)
    files.samples.mkdir()
    (files.checkpoints / ".step_000002.safetensors.abcd1234.part.safetensors").write_text("half")
    for name in ("anna_stage1_000003_00.png", "anna2_stage1_000003_00.png"):
        (files.samples / f".{name}.abcd1234.part.png").write_text("half")
    with files.claimed(False, None):
        kept = {name.removeprefix(".").split(".abcd")[0] for name in hidden(tmp_path) if "claim" not in name}
    assert kept == {*others, "anna2_stage1_000003_00.png"}
    assert not [name for name in hidden(tmp_path) if "claim" in name]


def test_two_runs_in_one_folder(tmp_path, tiny_sd):
    """The second says so at once; a process that is gone holds nothing."""
    settings = load_settings(None, None, small_values(tmp_path, tiny_sd))
    out = settings.output_dir
    out.mkdir()
    code = f"""
import time
from pathlib import Path
from singleinsert.claims import claimed
with claimed(Path({str(out)!r}), "pic"):
    print("has it", flush=True)
    time.sleep(60)
"""
    other = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
    assert other.stdout.readline() == "has it\n"
    from singleinsert.training.run import train

    with pytest.raises(InputError, match=rf"another run called pic is writing in .*\(process {other.pid} on "):
        train(settings)
    assert [path.name for path in out.iterdir()] == [".pic.claim-001"]
    with claimed(out, "other"):  # of another name
        pass
    os.kill(other.pid, signal.SIGKILL)
    other.wait()
    with claimed(out, "pic"):
        assert [path.name for path in out.iterdir()] == [".pic.claim-002"]
    assert not list(out.iterdir())


def test_a_holder_on_another_machine_is_gone_when_it_shows_no_sign_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "this_host", lambda: "elsewhere")
    held = claimed(tmp_path, "pic")
    held.__enter__()
    monkeypatch.setattr(claims, "this_host", lambda: "here")
    with pytest.raises(InputError, match="on elsewhere"), claimed(tmp_path, "pic"):
        pass
    long_ago = time.time() - claims.STALE - 1
    os.utime(tmp_path / ".pic.claim-001", (long_ago, long_ago))
    with claimed(tmp_path, "pic"):
        pass


def test_one_of_many_gets_the_name(tmp_path):
    """Eight processes at once, on a claim that is stale: one has it, seven say so."""
    (tmp_path / ".pic.claim-001").write_text(json.dumps({"host": claims.this_host(), "pid": 2**22 + 1, "born": 1.0}))
    code = f"""
import sys, time
from pathlib import Path
from singleinsert.claims import claimed
from singleinsert.errors import InputError
sys.stdin.readline()
try:
    with claimed(Path({str(tmp_path)!r}), "pic"):
        print("mine", flush=True)
        sys.stdin.readline()
except InputError as error:
    print("error", flush=True)
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": ENVIRONMENT}
    processes = [subprocess.Popen([sys.executable, "-c", code], **pipes) for _ in range(8)]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    said = sorted(process.stdout.readline().strip() for process in processes)
    for process in processes:
        process.communicate("\n")
    assert said == ["error"] * 7 + ["mine"]


TRAIN = """
import json, sys
from pathlib import Path
from singleinsert.cli import Parser, run_script
from singleinsert.config import load_settings
values = json.loads(Path(sys.argv[1]).read_text())
def run(args):
    from singleinsert.insert import insert_concepts
    print("begins", flush=True)
    insert_concepts(load_settings(None, None, values))
sys.exit(run_script(Parser(), run, []))
"""


def test_a_reader_that_leaves_ends_no_run(tiny_sd, tmp_path):
    """``train ... 2>&1 | head -1``: the run goes on to its end, exit code 0."""
    file = tmp_path / "values.json"
    file.write_text(json.dumps(small_values(tmp_path, tiny_sd)))
    process = subprocess.Popen([sys.executable, "-u", "-c", TRAIN, str(file)], stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT)  # fmt: skip
    assert process.stdout.readline() == "begins\n"
    process.stdout.close()
    assert process.wait(timeout=300) == 0
    assert Artifact.load(tmp_path / "out/pic_artifact.safetensors").name == "pic"


def test_a_closed_terminal_saves_as_a_stop_does(tiny_sd, tmp_path):
    file = tmp_path / "values.json"
    file.write_text(json.dumps(small_values(tmp_path, tiny_sd, stage1__steps=5000)))
    # under nohup the tests' own processes would be deaf to it, as they should
    process = subprocess.Popen([sys.executable, "-u", "-c", TRAIN, str(file)], stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT,
                               preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL))  # fmt: skip
    for line in process.stdout:
        if "first step done" in line:
            break
    process.send_signal(signal.SIGHUP)
    rest = process.stdout.read()
    assert process.wait(timeout=120) == 128 + signal.SIGHUP, rest
    assert f"python train_singleinsert.py --config_file {tmp_path}/out/pic_config.toml --resume_from_checkpoint" in rest
    assert len(checkpoints(tmp_path / "out/checkpoints/pic")) == 1 and hidden(tmp_path / "out") == []


def test_killed_while_a_batch_writes_what_is_left_of_it_goes_later(tmp_path):
    """Of the page, the table and the states: what is older than any write, and not what another process is writing."""
    (tmp_path / "state").mkdir()
    old = [tmp_path / ".index.html.abcd1234.part.html", tmp_path / "state/.a.001.json.abcd1234.part.json"]
    young = [tmp_path / ".index.html.abcd5678.part.html", tmp_path / "state/.b.001.json.abcd5678.part.json"]
    others = [tmp_path / ".cat.safetensors.abcd1234.part.safetensors"]
    for path in old + young + others:
        path.write_text("half")
    long_ago = time.time() - claims.STALE - 1
    for path in old + others:
        os.utime(path, (long_ago, long_ago))
    FolderStore(tmp_path).put_text("index.html", "whole")
    queue = Queue(tmp_path / "state", "a")
    queue.finish(queue.claim(), DONE)
    assert {*tmp_path.rglob(".*")} == {*young, *others}


def test_killed_while_a_job_that_is_done_is_tidied_up(tmp_path, monkeypatch):
    """Its tries' folders hold gigabytes of checkpoints: the next process removes what is left of them."""

    class Killed(BaseException):
        pass

    def kill(folder, claim):
        raise Killed

    monkeypatch.setattr(queue_module, "process_lives", lambda record: False)
    work, done = tmp_path / "work", Outcome(DONE)
    queue = Queue(tmp_path / "state", "a")
    (work_folder(work, queue.claim()) / "checkpoints").mkdir()
    second = queue.claim()
    monkeypatch.setattr(local, "clear_work", kill)
    with pytest.raises(Killed):
        local.settle(done, second, queue, work, print)
    monkeypatch.undo()
    monkeypatch.setattr(queue_module, "process_lives", lambda record: False)
    again = Queue(tmp_path / "state", "a")
    local.settle(done, again.claim(), again, work, lambda line: None)
    assert not list(work.iterdir()) and again.states()["a"].state == DONE
