"""A queue that grows: lists that appear in queue/, jobs that are stopped, asked for again, paused and taken back."""

import json

from batches import learnt, same_to_the_bit, written
from runs import SMALL, draw_subject

from singleinsert.batch.__main__ import main
from singleinsert.batch.growing import live_workers, worker_mark
from singleinsert.batch.jobs import read_jobs
from singleinsert.work.queue import FAILED, QUEUED, STOPPED, Queue


def put(folder, model, name, **changes):
    """A list of one job, as a page or a script puts it there."""
    image, mask = draw_subject(folder / "input")
    job = SMALL | {"model.pretrained_model_name_or_path": str(model), "data.image": str(image), "data.mask": str(mask),
                   "stage1.steps": 2, "stage2.steps": 1, "run.seed": 3, "name": name} | changes  # fmt: skip
    queue = folder / "queue"
    queue.mkdir(exist_ok=True)
    (queue / f"{name}.toml").write_text("[[job]]\n" + "".join(f"{key} = {written(job[key])}\n" for key in job))


def test_jobs_that_appear_are_done_and_one_that_is_stopped_goes_on_when_asked(tmp_path, tiny_sd, capsys, monkeypatch):
    from singleinsert.training import loop

    put(tmp_path, tiny_sd, "anna")
    (tmp_path / "queue" / "broken.toml").write_text("[[job]\n")
    steps = loop.Loop._optimiser_step
    made = []

    def step(self, stage):
        """While the first job trains, another one appears, and somebody stops the first."""
        steps(self, stage)
        made.append(self.run.files.name)
        if len(made) == 1:
            put(tmp_path, tiny_sd, "bert")
            (self.run.files.logs / "stop").touch()

    monkeypatch.setattr(loop.Loop, "_optimiser_step", step)
    assert main([str(tmp_path), "--watch", "0"]) == 0
    said = capsys.readouterr().out
    assert made == ["anna", *["bert"] * 3] and said.count("left out: ") == 1  # told once, and nothing stops for it
    queue = Queue(tmp_path / ".batch/state", ["anna", "bert"], again=False)
    assert {name: state.state for name, state in queue.states().items()} == {"anna": STOPPED, "bert": "done"}
    main([str(tmp_path), "--watch", "0"])
    assert len(made) == 4  # a worker that starts does not go on by itself with what somebody stopped
    assert queue.ask_again("anna") and not queue.ask_again("bert") and queue.states()["anna"].state == QUEUED
    main([str(tmp_path), "--watch", "0"])
    assert made[4:] == ["anna"] * 2  # from its checkpoint
    assert same_to_the_bit(learnt(tmp_path, "anna"), learnt(tmp_path, "bert"))
    rows = (tmp_path / "anna/logs/anna/losses.csv").read_text().splitlines()
    assert len(rows) == 4 and (tmp_path / "index.html").is_file()


def test_a_paused_queue_takes_nothing_and_a_list_that_is_taken_back_is_no_longer_wanted(tmp_path, tiny_sd):
    put(tmp_path, tiny_sd, "anna")
    (tmp_path / "queue" / "paused").touch()
    assert main([str(tmp_path), "--watch", "0"]) == 0
    assert not (tmp_path / ".batch/state").exists()
    (tmp_path / "queue" / "paused").unlink()
    (tmp_path / "queue" / "anna.toml").unlink()
    assert main([str(tmp_path), "--watch", "0"]) == 0
    assert not (tmp_path / ".batch/state").exists()


def test_the_oldest_list_comes_first_and_a_taken_name_fails_its_job(tmp_path, tiny_sd):
    import os

    for age, name in enumerate(["zoe", "anna"]):
        put(tmp_path, tiny_sd, name)
        os.utime(tmp_path / "queue" / f"{name}.toml", (1000 + age, 1000 + age))
    jobs, problems = read_jobs(tmp_path, tmp_path)
    assert [job.name for job in jobs] == ["zoe", "anna"] and not problems
    (tmp_path / "anna").mkdir()
    (tmp_path / "queue" / "zoe.toml").unlink()
    main([str(tmp_path), "--watch", "0"])
    state = Queue(tmp_path / ".batch/state", ["anna"], again=False).states()["anna"]
    assert state.state == FAILED and "is no finished job" in state.reason


def test_workers_that_wait_can_be_seen(tmp_path):
    with worker_mark(tmp_path):
        assert len(live_workers(tmp_path)) == 1
        (tmp_path / ".batch/workers/gone.json").write_text(json.dumps(live_workers(tmp_path)[0] | {"pid": 2**22 - 1}))
        assert len(live_workers(tmp_path)) == 1
    assert live_workers(tmp_path) == [] and not list((tmp_path / ".batch/workers").iterdir())
