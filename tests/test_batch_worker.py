"""One process, many concepts: nothing of one job reaches the next, and no job stops the others."""

import csv
import os
import re
import signal
from types import SimpleNamespace

import pytest
import torch
from batches import learnt, same_to_the_bit, write_jobs
from PIL import Image
from runs import QUIET, Said, small_settings

from singleinsert.artifact import Artifact
from singleinsert.batch.__main__ import main
from singleinsert.batch.jobs import read_jobs
from singleinsert.batch.store import FolderStore, UrlStore
from singleinsert.batch.worker import LOW_MEMORY, LogWatch, Outcome, Task, Worker, read_inputs
from singleinsert.config import load_settings
from singleinsert.models.loading import load_base_model
from singleinsert.training import run as training
from singleinsert.training.memory import out_of_memory
from singleinsert.training.signals import Interrupted

# what each job changes in the state that a process keeps: precision, accumulation, the switch, trackers, targets
CHANGES = [
    {"run.report_to": "tensorboard"},
    {"run.mixed_precision": "bf16"},
    {"run.gradient_accumulation_steps": 2},
    {
        "run.gradient_checkpointing": True,
        "run.micro_batch_size": 3,
        "sample.prompts": ["{concept}", "{concept} in the snow"],
    },
    {"stage2.trains": ["concept", "denoiser"], "concept.num_vectors": 2, "class_word": "cat"},
    {"run.teacher_bank": False},
    {"run.channels_last": True},
    {},
]


def batch(source, out, *words):
    return main([str(source), "--output_dir", str(out), *words])


@pytest.fixture(scope="module")
def finished(tiny_sd, tmp_path_factory):
    """Eight jobs, each of another kind, in one process; how often a model was loaded."""
    folder = tmp_path_factory.mktemp("batch")
    names = [f"job{i}" for i in range(len(CHANGES))]
    source, loads, load = write_jobs(folder, tiny_sd, names, *CHANGES), [], training.load_base_model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "load_base_model", lambda *a, **k: loads.append(k["dtype"]) or load(*a, **k))
        before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
        code = batch(source, folder / "out")
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    jobs, _ = read_jobs(source, folder / "out")
    return SimpleNamespace(folder=folder, out=folder / "out", source=source, jobs=jobs, code=code, loads=loads)


def test_a_model_is_loaded_once_for_all_jobs_that_want_the_same(finished):
    """float32 for five of the eight, bfloat16 for one, and two with a switch that a model is loaded with."""
    assert finished.code == 0
    assert sorted(map(str, finished.loads)) == ["torch.bfloat16", *["torch.float32"] * 3]


@pytest.mark.parametrize("place", range(len(CHANGES)))
def test_a_job_of_a_batch_is_the_same_job_alone_to_the_bit(finished, tmp_path, place):
    job = finished.jobs[place]
    alone = training.train(job.settings, folder=tmp_path, watch=QUIET)
    assert same_to_the_bit(learnt(finished.out, job.name), alone.artifact)
    assert Image.open(finished.out / job.name / f"{job.name}.preview.png").tobytes() == alone.preview.tobytes()


def test_the_base_model_is_afterwards_what_it_was_however_the_run_ended(tiny_sd, tmp_path, monkeypatch):
    model, original = load_base_model(tiny_sd), load_base_model(tiny_sd)

    def run(name, watch=QUIET):
        settings = small_settings(tmp_path, tiny_sd, run__output_name=name)
        return training.train(settings, folder=tmp_path / name, load=lambda settings, accelerator: model, watch=watch)

    def broken(stage, step):
        if (stage, step) == ("stage2", 2):
            raise RuntimeError("in a step")

    run("whole")
    with pytest.raises(RuntimeError, match="in a step"):
        run("half", Said(on_step=broken))
    monkeypatch.setattr(training, "build_artifact", lambda *a: (_ for _ in ()).throw(RuntimeError("late")))
    with pytest.raises(RuntimeError, match="late"):
        run("broken")
    for part in ("unet", "text_encoder", "vae"):
        ours, theirs = getattr(model, part), getattr(original, part)
        assert [(n, type(m)) for n, m in ours.named_modules()] == [(n, type(m)) for n, m in theirs.named_modules()]
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
        assert not any(p.requires_grad or p.grad is not None for p in ours.parameters())
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in ours.modules()) and not ours.training


def test_what_a_finished_job_leaves(finished):
    """Its folder as train_singleinsert.py would leave it, which can be fed back, and nothing that is half done."""
    folder = finished.out / "job0"
    assert {"job0.safetensors", "job0_lora.safetensors", "job0_sheet.png", "job0_job.json"} <= {
        path.name for path in folder.iterdir()
    }
    assert list((folder / "logs/job0").rglob("events.out.tfevents*"))
    assert load_settings(None, folder / "job0_config.toml", {}) == finished.jobs[0].settings
    assert not list((finished.out / ".batch/work").iterdir())
    assert not [path for path in finished.out.rglob(".*") if path.is_file()]


def test_the_table_and_the_page(finished):
    with open(finished.out / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [job.name for job in finished.jobs]
    assert {row["state"] for row in rows} == {"done"} and rows[0]["mask_share"].startswith("0.32")
    assert float(rows[0]["stage2.foreground"]) > 0 and rows[4]["class_word"] == "cat"
    page = (finished.out / "index.html").read_text(encoding="utf-8")
    assert page.count("<article") == len(CHANGES) and 'href="job3/job3_sheet.png"' in page
    assert "32.1% of the picture" in page and "job7_lora.safetensors" in page
    assert "refresh" not in page and "again" not in page.partition("</style>")[2]  # it is over, and nothing has failed
    shown = re.findall(r'src="(job\d/samples/[^"]+)"', page)
    assert [path.rpartition("/")[2] for path in shown if path.startswith("job3/")] == [
        "job3_source.png", "job3_stage2_000003_00.png", "job3_stage2_000003_01.png",
    ]  # fmt: skip
    assert all((finished.out / path).is_file() for path in shown) and "job3 face in the snow" in page
    assert Image.open(finished.out / "job3/samples/job3_source.png").size == (80, 64)


def test_the_page_looks_for_what_is_new_while_a_job_runs(tiny_sd, tmp_path, monkeypatch):
    seen = []

    def do(worker, task, store):
        seen.append((tmp_path / "out" / "index.html").read_text())
        return Outcome("failed", "no luck")

    monkeypatch.setattr(Worker, "do", do)
    assert batch(write_jobs(tmp_path, tiny_sd, "a"), tmp_path / "out") == 1
    assert 'http-equiv="refresh"' in seen[0] and '<span class="state">running</span>' in seen[0]
    assert 'http-equiv="refresh"' not in (tmp_path / "out" / "index.html").read_text()


def test_the_same_batch_again_does_nothing(finished, monkeypatch, capsys):
    monkeypatch.setattr(Worker, "do", None)
    assert batch(finished.source, finished.out) == 0
    assert "8 of 8 done" in capsys.readouterr().out


def test_other_settings_or_another_picture_under_a_finished_name_are_refused(finished, tiny_sd, tmp_path, capsys):
    assert batch(finished.source, finished.out, "--stage1_steps", "4") == 2
    said = capsys.readouterr().err
    assert "job0 was made with stage1.steps 3, not 4: set another name, or delete" in said
    picture = finished.folder / "input/pic.png"
    kept = picture.read_bytes()
    Image.new("RGB", (80, 64), "red").save(picture)
    assert batch(finished.source, finished.out) == 2
    assert "job0 was made from another picture, description or mask" in capsys.readouterr().err
    picture.write_bytes(kept)
    (tmp_path / "out/a").mkdir(parents=True)
    assert batch(write_jobs(tmp_path, tiny_sd, "a"), tmp_path / "out") == 2
    assert "is there and is no finished job" in capsys.readouterr().err


def test_jobs_that_fail_do_not_stop_the_others_and_are_tried_at_the_next_start(tiny_sd, tmp_path, capsys):
    """A missing picture, found before a model is loaded, and a class word that the model has no word for."""
    changes = [{"image": "later.png", "mask": ""}, {}, {"class_word": "\u4e16"}, {}]
    source, out = write_jobs(tmp_path, tiny_sd, ["late", "good", "wild", "last"], *changes), tmp_path / "out"
    assert batch(source, out) == 1
    said = capsys.readouterr()
    assert "late: failed: picture not found" in said.out and "[4/4] last: done in" in said.out
    assert "error: 2 failed (late, wild)" in said.err and "Traceback" not in said.err
    assert "wild: failed: " in said.out
    assert sorted(path.name for path in out.iterdir()) == [".batch", "good", "index.html", "last", "results.csv"]
    page = (out / "index.html").read_text(encoding="utf-8")
    assert page.index("picture not found") < page.index("good_sheet.png")  # what wants looking after comes first
    assert f"again, mended or as they are: <code>python -m singleinsert batch {source} --output_dir {out}" in page

    stamp = (out / "good/good_artifact.safetensors").stat().st_mtime_ns
    Image.open(tmp_path / "input/pic.png").save(tmp_path / "later.png")
    write_jobs(tmp_path, tiny_sd, ["late", "good"], {"image": "later.png"})
    assert batch(source, out) == 0
    assert (out / "late/late_lora.safetensors").is_file()
    assert (out / "good/good_artifact.safetensors").stat().st_mtime_ns == stamp


def test_an_unforeseen_error_fails_its_job_alone_with_a_log(tiny_sd, tmp_path, monkeypatch, capsys):
    build = training.build_artifact

    def broken(run, *rest):
        if run.files.name == "a":
            raise ZeroDivisionError("a defect")
        return build(run, *rest)

    monkeypatch.setattr(training, "build_artifact", broken)
    out = tmp_path / "out"
    assert batch(write_jobs(tmp_path, tiny_sd, "ab"), out) == 1
    assert "a: failed: ZeroDivisionError: a defect" in capsys.readouterr().out
    assert "Traceback" in (out / ".batch/state/a.001.log").read_text() and (out / "b").is_dir()


@pytest.mark.parametrize(
    "problem", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), MemoryError("no memory")]
)
def test_out_of_memory_is_tried_once_more_with_less(tiny_sd, tmp_path, monkeypatch, problem):
    """The second try recomputes activations and takes samples one at a time; the result is the same but for sums."""
    settings, seen, load = small_settings(tmp_path, tiny_sd), [], training.load_model

    def loading(settings, accelerator):
        seen.append([{key: getattr(settings.run, key) for key in LOW_MEMORY}, 0])
        return load(settings, accelerator)

    def short(self, stage, step, steps, losses):
        seen[-1][1] += 1
        if len(seen) == 1 and stage == "stage2":
            raise problem

    monkeypatch.setattr(training, "load_model", loading)
    monkeypatch.setattr(LogWatch, "step", short)
    (tmp_path / "out2").mkdir()
    outcome = Worker().do(Task("pic", settings, tmp_path / "work/pic.001"), FolderStore(tmp_path / "out2"))
    assert outcome.state == "done" and outcome.record["low_memory"] and "out of memory" in outcome.log
    assert seen == [[{"offload": False, "gradient_checkpointing": False, "micro_batch_size": 0}, 4], [LOW_MEMORY, 6]]
    whole = training.train(settings, watch=QUIET).artifact
    assert torch.allclose(learnt(tmp_path / "out2", "pic").embedding, whole.embedding, atol=2e-5)


def test_out_of_memory_twice_is_a_failure(tiny_sd, tmp_path, monkeypatch):
    def short(self, *step):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(LogWatch, "step", short)
    worker = Worker()
    outcome = worker.do(Task("pic", small_settings(tmp_path, tiny_sd), tmp_path / "w/pic.001"), FolderStore(tmp_path))
    assert outcome.state == "failed" and outcome.reason.startswith("OutOfMemoryError: CUDA out of memory")
    assert worker.model._model is None


def test_what_counts_as_out_of_memory():
    assert out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 8 bytes"))
    with pytest.raises(ValueError) as wrapped:
        raise ValueError("a line for the user") from torch.OutOfMemoryError("CUDA out of memory. Tried")
    assert out_of_memory(wrapped.value) and not out_of_memory(None)
    assert not out_of_memory(RuntimeError("shapes differ")) and not out_of_memory(ValueError("out of memory."))


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_batch_and_the_job_goes_on_from_its_checkpoint(tiny_sd, tmp_path, monkeypatch, signum):
    source, out = write_jobs(tmp_path, tiny_sd, "ab"), tmp_path / "out"
    steps = []

    def stopping(self, stage, step, *told):
        steps.append((stage, step))
        if len(steps) == 5:
            os.kill(os.getpid(), signum)

    monkeypatch.setattr(LogWatch, "step", stopping)
    assert batch(source, out) == 128 + signum
    assert not (out / "a").exists() and list((out / ".batch/work/a.001/checkpoints/a").iterdir())
    assert batch(source, out) == 0
    assert steps == [(stage, step) for stage in ("stage1", "stage2") for step in (1, 2, 3)] * 2  # none was done twice
    jobs, _ = read_jobs(source, out)
    for job in jobs:
        alone = training.train(job.settings, folder=tmp_path / f"alone_{job.name}", watch=QUIET)
        assert same_to_the_bit(learnt(out, job.name), alone.artifact)


def test_stopped_and_started_with_other_settings_a_job_begins_anew(tiny_sd, tmp_path, monkeypatch):
    """Its checkpoint is of no use then, and no reason to fail."""
    source, out = write_jobs(tmp_path, tiny_sd, "a"), tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(LogWatch, "step", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        assert batch(source, out) == 143
    assert batch(source, out, "--stage1_learning_rate", "0.001") == 0
    log = (out / ".batch/state/a.002.log").read_text()
    assert "stage1.learning_rate was" in log and "begins anew" in log
    (job,), _ = read_jobs(source, out, flags={"stage1.learning_rate": 0.001})
    alone = training.train(job.settings, folder=tmp_path / "alone", watch=QUIET)
    assert same_to_the_bit(learnt(out, "a"), alone.artifact)


def test_told_to_stop_between_the_stages_it_stops(tiny_sd, tmp_path, monkeypatch):
    """While a model loads no loop listens; SIGTERM is an exception there, and the job is queued again."""
    source, out, load = write_jobs(tmp_path, tiny_sd, "a"), tmp_path / "out", training.load_model
    monkeypatch.setattr(training, "load_model", lambda *a: (os.kill(os.getpid(), signal.SIGTERM), load(*a))[1])
    assert batch(source, out) == 143
    monkeypatch.setattr(training, "load_model", load)
    assert batch(source, out) == 0 and (out / "a").is_dir()


def test_results_at_an_url(tiny_sd, tmp_path):
    """fsspec's own file system; the job's record, by which it is done, goes last."""
    source, out, url = write_jobs(tmp_path, tiny_sd, "ab"), tmp_path / "out", f"file://{tmp_path}/bucket/set 1"
    assert batch(source, out, "--results", url) == 0
    bucket = tmp_path / "bucket/set 1"
    assert (bucket / "index.html").is_file() and (bucket / "results.csv").is_file() and not (out / "a").exists()
    files = sorted((bucket / "a").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert files[-1].name == "a_job.json" and Artifact.load(bucket / "a/a_artifact.safetensors").name == "a"
    (bucket / "b/b_job.json").unlink()  # half there is not there
    assert UrlStore(url).record("b") is None and UrlStore(url).record("a")["name"] == "a"
    assert batch(source, out, "--results", url) == 0 and (bucket / "b/b_job.json").is_file()


def test_pictures_can_travel_with_the_job(tiny_sd, tmp_path):
    settings = small_settings(tmp_path, tiny_sd)
    task = Task("pic", settings, tmp_path / "w/pic.001", read_inputs(settings))
    for path in (*settings.data.image, *settings.data.mask):
        os.unlink(path)
    outcome = Worker().do(task, FolderStore(tmp_path))
    assert outcome.state == "done", outcome.reason
    assert not task.copies.exists()


def test_interrupted_gets_through(tiny_sd, tmp_path, monkeypatch):
    def stop(*args, **kwargs):
        raise Interrupted(15, "told to")

    monkeypatch.setattr(training, "load_model", stop)
    with pytest.raises(Interrupted):
        Worker().do(Task("pic", small_settings(tmp_path, tiny_sd), tmp_path / "w/pic.001"), FolderStore(tmp_path))
