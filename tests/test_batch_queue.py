"""The queue on disk: one holder per job, whoever asks, and holders that were killed."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from batches import ENVIRONMENT

from singleinsert import claims
from singleinsert.batch.local import clear_work, work_folder
from singleinsert.batch.progress import progress_line, time_left
from singleinsert.work import queue as module
from singleinsert.work.queue import DONE, FAILED, LOST_LIMIT, QUEUED, RUNNING, Queue, State

HOLD = """
import sys, time
from pathlib import Path
from singleinsert.work.queue import Queue
claim = Queue(Path(sys.argv[1]), ["a"]).claim()
print(claim.attempt, flush=True)
time.sleep(600)
"""


@pytest.fixture
def held(tmp_path):
    """Another process that holds job a."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "1\n"
    yield process
    process.kill()
    process.wait()


def states(queue):
    return {name: state.state for name, state in queue.states().items()}


def test_jobs_are_taken_in_order_and_once(tmp_path):
    one, other = Queue(tmp_path, "abc"), Queue(tmp_path, "abc")
    a, c = one.claim(), other.claim(lambda name: name == "c")
    assert (a.name, c.name, one.claim().name, one.claim(), other.claim()) == ("a", "c", "b", None, None)
    assert set(states(one).values()) == {RUNNING} and not one.settled()
    one.finish(a, DONE)
    other.finish(c, FAILED, "no good", log="line 1\nline 2")
    assert states(other) == {"a": DONE, "b": RUNNING, "c": FAILED}
    assert other.states()["c"].reason == "no good" and (tmp_path / "c.001.log").read_text() == "line 1\nline 2"
    assert other.claim() is None  # what failed in this run is not tried again by it


def test_who_comes_later_leaves_what_is_running_alone(tmp_path):
    """Its results are missing because they are being made: to take it too would pull its folder from under it."""
    Queue(tmp_path, "ab").claim()
    later = Queue(tmp_path, "ab")
    later.missing = {"a", "b"}
    assert later.claim().name == "b" and later.claim() is None


def test_many_at_once_get_each_job_once(tmp_path):
    names = [f"job{i}.v1" for i in range(20)]  # names may have dots

    def take_all(_):
        queue, mine = Queue(tmp_path, names), []
        while claim := queue.claim():
            mine.append(claim.name)
        return mine

    with ThreadPoolExecutor(8) as pool:
        taken = [name for mine in pool.map(take_all, range(8)) for name in mine]
    assert sorted(taken) == sorted(names)


def test_another_start_takes_what_failed_and_what_is_missing(tmp_path):
    first = Queue(tmp_path, "abc")
    for state in (DONE, FAILED, DONE):
        first.finish(first.claim(), state)
    again = Queue(tmp_path, "abc")
    again.missing = {"c"}
    assert [again.claim().name, again.claim().name, again.claim()] == ["b", "c", None]
    assert not again.settled()


def test_a_killed_holder_is_known_at_once_on_its_own_machine(tmp_path, held):
    queue = Queue(tmp_path, "a")
    assert queue.claim() is None and not queue.settled()
    held.send_signal(signal.SIGSTOP)  # asleep is not dead
    assert queue.claim() is None
    held.send_signal(signal.SIGKILL)
    held.wait()
    assert states(queue) == {"a": QUEUED}
    assert queue.claim().attempt == 2


def test_a_process_that_was_given_the_number_of_a_dead_one_is_another(tmp_path):
    queue = Queue(tmp_path, "a")
    claim = queue.claim()
    record = json.loads(claim.path.read_text())
    assert record["pid"] == os.getpid()
    claim.path.write_text(json.dumps(record | {"born": record["born"] - 3600}))
    assert Queue(tmp_path, "a").claim().attempt == 2


def test_a_holder_elsewhere_is_gone_when_its_file_stands_still(tmp_path, monkeypatch):
    """By this machine's own watch alone: the file's time may be of any other clock."""
    watch = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(module.time, "monotonic", lambda: watch.now)
    monkeypatch.setattr(claims, "this_host", lambda: "elsewhere")
    claim = Queue(tmp_path, "a").claim()
    monkeypatch.setattr(claims, "this_host", lambda: "here")
    queue, year = Queue(tmp_path, "a"), 365 * 86400
    os.utime(claim.path, (year, year))
    assert queue.claim() is None
    watch.now += module.STALE - 1
    assert queue.claim() is None
    os.utime(claim.path, (year + 5, year + 5))  # a sign of life
    watch.now += 2
    assert queue.claim() is None
    watch.now += module.STALE - 1
    assert queue.claim() is None
    watch.now += 2
    assert queue.claim().attempt == 2


def test_a_claim_cut_short_is_waited_for_like_one_elsewhere(tmp_path, monkeypatch):
    """Killed between making the file and writing into it."""
    watch = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(module.time, "monotonic", lambda: watch.now)
    (tmp_path / "a.001.json").write_text("")
    queue = Queue(tmp_path, "a")
    assert queue.claim() is None and states(queue) == {"a": RUNNING}
    watch.now += module.STALE + 1
    assert queue.claim().attempt == 2


def test_a_job_that_takes_workers_down_with_it_fails(tmp_path, monkeypatch):
    queue = Queue(tmp_path, "ab")
    monkeypatch.setattr(module, "process_lives", lambda record: False)
    for attempt in range(1, LOST_LIMIT + 1):
        assert queue.claim(lambda name: name == "a").attempt == attempt
    assert queue.claim(lambda name: name == "a").name == "b"
    assert queue.states()["a"].state == FAILED and "took 3 workers down" in queue.states()["a"].reason
    assert Queue(tmp_path, "a").claim().name == "a"  # another start tries again


def test_the_next_holder_goes_on_from_copies_of_the_checkpoints(tmp_path, monkeypatch):
    queue = Queue(tmp_path / "state", "a")
    left = work_folder(tmp_path / "work", queue.claim())
    (left / "checkpoints/a").mkdir(parents=True)
    (left / "checkpoints/a/step_000001.safetensors").write_text("half way")
    (left / "checkpoints/a/.step_000002.safetensors.abcd1234.part.safetensors").write_text(
        "killed while it was written"
    )
    (left / "samples").mkdir()
    (left / "samples/a_stage1_000003_00.png").write_text("of stage I, for the sheet")
    (left / "a_sheet.png").write_text("of the first try")
    monkeypatch.setattr(module, "process_lives", lambda record: False)
    second = queue.claim()
    mine = work_folder(tmp_path / "work", second)
    assert (mine / "checkpoints/a/step_000001.safetensors").read_text() == "half way"
    assert {str(p.relative_to(mine)) for p in mine.rglob("*.*")} == {
        "checkpoints/a/step_000001.safetensors", "samples/a_stage1_000003_00.png",
    }  # fmt: skip
    assert (left / "a_sheet.png").exists()
    clear_work(tmp_path / "work", second)
    assert not list((tmp_path / "work").iterdir())


def test_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "HEARTBEAT", 0.01)
    claim = Queue(tmp_path, "a").claim()
    os.utime(claim.path, (0, 0))
    deadline = module.time.monotonic() + 10
    while claim.path.stat().st_mtime == 0 and module.time.monotonic() < deadline:
        module.time.sleep(0.01)
    assert claim.path.stat().st_mtime > 0


def test_time_left():
    """The median of 10, 20 and 300 seconds; 4 jobs left on 2 workers: 20 * 4 / 2."""
    done = {str(i): State(DONE, 1, {"seconds": s}) for i, s in enumerate((10, 300, 20))}
    rest = dict(zip("rstu", [State(RUNNING, 1, {})] * 2 + [State(QUEUED, 0, {})] * 2, strict=True))
    assert time_left(done | rest, 2) == 40
    assert time_left(rest, 2) is None
    assert progress_line(done | rest, 2) == "3 of 7 done, 2 running, about 40 s left"
    assert progress_line({"a": State(FAILED, 1, {})}, 1) == "0 of 1 done, 1 failed"


@pytest.mark.parametrize(
    "text",
    ["", "{}", "[]", "3", '{"state":1}', '{"host":"HOST"}', '{"state":"running","host":"HOST","pid":"x","born":1}',
     '{"state":"running","host":"HOST","pid":1e99,"born":"y"}', '{"state":[]}', '{"state":"so so"}', "[" * 5000,
     '{"state":"done"', '{"state":"running","host":"HOST","pid":' + "9" * 5000 + "}"],
)  # fmt: skip
def test_states_that_were_edited_by_hand(tmp_path, monkeypatch, text):
    """Whatever stands there is taken for a try of which nothing is known, and is waited for and then made again."""
    watch = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(module.time, "monotonic", lambda: watch.now)
    (tmp_path / "a.001.json").write_text(text.replace("HOST", claims.this_host()))
    queue = Queue(tmp_path, "a")
    assert queue.claim() is None and states(queue) == {"a": RUNNING}
    watch.now += module.STALE + 1
    assert queue.claim().attempt == 2
