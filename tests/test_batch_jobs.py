"""Lists of jobs: what is read from TOML, CSV and folders, and what is refused. No model is loaded."""

import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from batches import write_jobs
from runs import draw_subject

from singleinsert.batch.__main__ import main
from singleinsert.batch.cluster import start_ray
from singleinsert.batch.jobs import read_jobs
from singleinsert.batch.plan import check_inputs
from singleinsert.batch.worker import Worker
from singleinsert.data.captions import caption_file
from singleinsert.errors import ConfigError, InputError


def toml(tmp_path, text):
    path = tmp_path / "jobs.toml"
    path.write_text(text)
    return path


def test_layers_of_a_toml_job(tmp_path):
    """preset < [defaults] < job < flags, however a setting is written."""
    source = toml(
        tmp_path,
        """
        [defaults]
        preset = "face"
        seed = 7
        network_dim = 8
        stage1.steps = 10
        [defaults.stage2]
        steps = 20
        [[job]]
        image = "pictures/anna.jpg"
        [[job]]
        image = "/whole/rex.png"
        name = "rex2"
        preset = "pet"
        class_word = "dog"
        run.seed = 8
        [job.stage2]
        steps = 21
        [job.mask]
        merge = true
        """,
    )
    (anna, rex), problems = read_jobs(source, tmp_path / "out", flags={"adapter.network_dim": 16})
    assert not problems
    assert (anna.name, anna.preset, anna.settings.data.class_word) == ("anna", "face", ("face",))
    assert anna.settings.data.image == (str(tmp_path / "pictures/anna.jpg"),)
    assert (anna.settings.run.seed, anna.settings.stage1.steps, anna.settings.stage2.steps) == (7, 10, 20)
    assert anna.settings.output_dir == tmp_path / "out/anna" and anna.settings.adapter.network_dim == 16
    assert (rex.name, rex.preset, rex.settings.data.image) == ("rex2", "pet", ("/whole/rex.png",))
    assert (rex.settings.run.seed, rex.settings.stage1.steps, rex.settings.stage2.steps) == (8, 10, 21)
    assert rex.settings.mask.merge and rex.settings.adapter.network_dim == 16


def test_a_table_has_the_same_keys_and_empty_cells_say_nothing(tmp_path):
    source = tmp_path / "jobs.csv"
    source.write_text("image;class_word;seed;stage1.steps;data.crop\na.png;face;3;;zoom\n\nb.png;black cat;;12;\n")
    (a, b), problems = read_jobs(source, tmp_path / "out", preset="face")
    assert not problems and a.preset == b.preset == "face"
    assert (a.settings.run.seed, a.settings.stage1.steps, a.settings.data.crop) == (3, 50, "zoom")
    assert (b.settings.run.seed, b.settings.stage1.steps, b.settings.data.class_word) == (0, 12, ("black cat",))


@pytest.mark.parametrize(
    "text",
    [
        b"\xef\xbb\xbfimage;class_word;seed\r\n\r\na.png;face;1\r\n;;\r\nb.png;black cat;\r\n\r\n",
        b"\n\nimage\tclass_word\tseed\na.png\tface\t1\n\nb.png\tblack cat\n",
        b"sep=;\r\nimage;class_word;seed;\r\na.png;face;1;;\r\n\r\nb.png;black cat;;;\r\n",
    ],
)
def test_tables_as_spreadsheets_write_them(tmp_path, text):
    """A byte order mark, blank lines, rows of empty cells, tabs, Excel's sep=, separators without end."""
    source = tmp_path / "jobs.csv"
    source.write_bytes(text)
    (a, b), problems = read_jobs(source, tmp_path / "out")
    assert not problems and (a.settings.run.seed, b.settings.run.seed) == (1, 0)
    assert (a.settings.data.class_word, b.settings.data.class_word) == (("face",), ("black cat",))
    source.write_bytes(text.replace(b"black cat", b"black cat\xe4").replace(b"b.png", b"a.png"))
    with pytest.raises(InputError, match="is not in UTF-8: save it as UTF-8"):
        read_jobs(source, tmp_path / "out")
    source.write_bytes(text.replace(b"b.png", b"a.png"))
    _, problems = read_jobs(source, tmp_path / "out")
    lines = text.splitlines()
    first, second = (next(i for i, line in enumerate(lines, 1) if name in line) for name in (b"a.png", b"b.png"))
    assert problems == [f"{source} line {second}: its name a is that of {source} line {first}: set name"]


def test_what_is_wrong_with_all_jobs_is_told_once(tmp_path):
    jobs = "".join(f'[[job]]\nimage = "{name}.png"\nclass_word = "face"\n' for name in "abc")
    source = toml(tmp_path, f"[defaults]\nstage1.step = 3\n{jobs}")
    _, problems = read_jobs(source, tmp_path / "out")
    assert problems == [f"{source} job 1 and 2 more: unknown key stage1.step; did you mean stage1.steps?"]
    table = tmp_path / "jobs.csv"
    table.write_text("image,class_wrod\na.png,face\nb.png,face\n")
    _, problems = read_jobs(table, tmp_path / "out")
    assert problems == [f"{table} line 2 and 1 more: unknown key class_wrod; did you mean class_word?"]


def test_a_folder_has_classes_as_folders(tmp_path):
    for kind, name in (("face", "1"), ("black_cat", "1"), ("face", "anna")):
        draw_subject(tmp_path / "photos" / kind, name)
    (tmp_path / "photos/face/notes.txt").write_text("no picture")
    (tmp_path / "photos/face/._anna.png").write_bytes(b"what macOS puts beside a picture")
    jobs, problems = read_jobs(tmp_path / "photos", tmp_path / "out")
    assert not problems
    assert [job.name for job in jobs] == ["black_cat_1", "face_1", "anna"]
    cat, face, _ = (job.settings.data for job in jobs)
    assert (cat.class_word, jobs[0].preset, face.class_word, jobs[1].preset) == (("black cat",), "", ("face",), "face")
    assert face.mask == (str(tmp_path / "photos/face/1_mask.png"),)


def test_pictures_without_a_class_folder_need_the_word(tmp_path):
    draw_subject(tmp_path, "anna")
    _, problems = read_jobs(tmp_path, tmp_path / "out")
    assert len(problems) == 1 and "--class_word is missing" in problems[0] and "anna.png" in problems[0]
    (job,), problems = read_jobs(tmp_path, tmp_path / "out", flags={"data.class_word": "face"})
    assert not problems and job.settings.data.class_word == ("face",)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ('seeed = 3\nname = "a"', "job 1: unknown key seeed; did you mean seed?"),
        ('stage1.step = 3\nname = "a"', "job 1: unknown key stage1.step; did you mean stage1.steps?"),
        ('preset = "fase"', "job 1: unknown preset 'fase'; did you mean face?"),
        ('output_dir = "x"', "job 1: output_dir is the batch's to decide: leave it out"),
        ('name = "a/b"', "job 1: run.output_name 'a/b' must be a file name"),
        ('name = "a:b"', "job 1: run.output_name, 'a:b', cannot name a concept"),
        ('seed = "three"', "job 1: run.seed must be a whole number, not 'three'"),
        ('[[job]]\nclass_word = "face"\nimage = "other/A.jpg"', "job 2: its name A is that of"),
        ('[[job]]\nclass_word = "face"', "job 2: --output_name is missing"),
    ],
)
def test_each_wrong_job_is_one_line_and_the_others_are_read(tmp_path, written, said):
    start = '[[job]]\nimage = "good.png"\nclass_word = "face"\n[[job]]\n'
    source = toml(tmp_path, f'[[job]]\nimage = "a.png"\nclass_word = "face"\n{written}\n')
    _, problems = read_jobs(source, tmp_path / "out")
    assert len(problems) == 1 and said in problems[0], problems
    if "job 1" in said:
        source.write_text(f'{start}image = "a.png"\nclass_word = "face"\n{written}\n')
        jobs, problems = read_jobs(source, tmp_path / "out")
        assert [job.name for job in jobs] == ["good"] and said.replace("job 1", "job 2") in problems[0]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("jobs.toml", "[[job]\n", "is not valid TOML"),
        ("jobs.toml", "[[jobs]]\nimage = 'a'\n", "unknown part jobs; did you mean job?"),
        ("jobs.toml", "[job]\nimage = 'a'\n", "write [[job]], twice bracketed"),
        ("jobs.toml", "", "holds no jobs"),
        ("jobs.csv", "image,class_word\na.png,face,7\n", "line 2 has more cells"),
        ("jobs.csv", "image\n", "holds no jobs"),
        ("jobs.txt", "", "no list of jobs; give a .toml or .csv file, or a folder"),
        ("jobs.toml", None, "not found; give a .toml or .csv file, or a folder"),
        ("output/.batch/state", "", "holds what a batch wrote, not photos"),
    ],
)
def test_a_source_that_is_none(tmp_path, name, text, said):
    source = tmp_path / name
    source.parent.mkdir(parents=True, exist_ok=True)
    if text is not None:
        source.write_text(text)
    source = tmp_path / "output" if "output" in name else source
    with pytest.raises((InputError, ConfigError)) as problem:
        read_jobs(source, tmp_path / "out")
    assert said in str(problem.value)


def dry(source, out, *words):
    return main([str(source), "--dry_run", "--output_dir", str(out), *words])


def test_a_dry_run_finds_everything_and_writes_nothing(tmp_path, tiny_sd, capsys):
    """Pictures, masks, model folder and disk are looked at; every problem is told, not only the first."""
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    empty = tmp_path / "empty_model"
    empty.mkdir()
    changes = [{}, {"image": str(broken)}, {"image": "none.png"}, {"mask": "none_mask.png"},
               {"pretrained_model_name_or_path": str(empty)}]  # fmt: skip
    source, out = write_jobs(tmp_path, tiny_sd, "abcde", *changes), tmp_path / "out"
    assert dry(source, out) == 2
    said = capsys.readouterr()
    assert "a  queued" in said.out and "disk: up to" in said.out
    for number, text in (
        (2, "is not a picture"), (3, "picture not found"), (4, "none_mask.png"), (5, "model_index.json is missing")
    ):  # fmt: skip
        assert any(f"job {number}:" in line and text in line for line in said.err.splitlines()), said.err
    assert "error: 4 problems" in said.err and "job 1" not in said.err and not out.exists()


def test_a_dry_run_reads_descriptions(tmp_path, tiny_sd, capsys):
    source = write_jobs(tmp_path, tiny_sd, "ab")
    (picture,) = {job.settings.data.image[0] for job in read_jobs(source, tmp_path / "out")[0]}
    caption_file(picture).write_text("a tree")
    assert dry(source, tmp_path / "out") == 2
    assert "says neither" in capsys.readouterr().err
    for job in read_jobs(source, tmp_path / "out")[0]:  # with the background it is not read, and training says so
        several = replace(job.settings, data=replace(job.settings.data, learn_background=True))
        assert not any("says neither" in text for _, text in check_inputs(replace(job, settings=several)))


def test_a_dry_run_that_finds_nothing(tmp_path, tiny_sd, capsys):
    assert dry(write_jobs(tmp_path, tiny_sd, "ab"), tmp_path / "out") == 0
    assert "no problems found" in capsys.readouterr().out


def test_a_full_disk_is_told(tmp_path, tiny_sd, capsys, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=50_000_000))
    assert dry(write_jobs(tmp_path, tiny_sd, "ab"), tmp_path / "out") == 2
    assert "50 MB free: make room" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--output_dir", "{file}/out"], "is a file, not a folder"),
        (["--results", "memory://out"], "what is in memory is gone when the batch ends"),
        (["--results", "file://{file}/out"], "cannot be read: [Errno 20] Not a directory"),
        (["--results", "nowhere://out"], "Protocol not known: nowhere"),
    ],
)
def test_places_that_cannot_take_results_are_told_before_training(tmp_path, tiny_sd, capsys, monkeypatch, words, said):
    monkeypatch.setattr(Worker, "do", None)
    monkeypatch.chdir(tmp_path)
    source = write_jobs(tmp_path, tiny_sd, "ab")
    assert main([str(source), *(word.format(file=source) for word in words)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and said in lines[0], lines


def test_a_ray_that_does_not_come_up_is_one_line(monkeypatch):
    """Ray raises a plain Exception where its processes take more than half a minute to start."""

    def init(**options):
        raise Exception("The current node timed out during startup.\nMore of it.")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(init=init))
    with pytest.raises(InputError) as problem:
        start_ray("auto", 2)
    assert str(problem.value) == "--ray auto: The current node timed out during startup."


def test_wrong_jobs_stop_the_batch_before_it_begins(tmp_path, tiny_sd, capsys):
    source = write_jobs(tmp_path, tiny_sd, "ab", {}, {"seeed": 3})
    assert main([str(source), "--output_dir", str(tmp_path / "out")]) == 2
    assert "nothing was started" in capsys.readouterr().err and not (tmp_path / "out/a").exists()
    assert main([str(source), "--image", "x.png"]) == 2
    assert "--image belongs to one job" in capsys.readouterr().err
