"""Lists of jobs as people and spreadsheets write them, odd contents, and what a folder and its flags mean together."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from runs import draw_subject

from singleinsert.batch.__main__ import main
from singleinsert.batch.jobs import left_out, read_jobs
from singleinsert.batch.worker import digest_of, read_inputs, with_inputs
from singleinsert.data.captions import read_caption
from singleinsert.errors import ConfigError, InputError


def read(tmp_path: Path, name: str, content: str | bytes, **options):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_jobs(path, tmp_path / "out", **options)


@pytest.mark.parametrize(
    ("header", "cell", "key", "value"),
    [
        ("run.gradient_checkpointing", "TRUE", "gradient_checkpointing", True),
        ("gradient_checkpointing", "False", "gradient_checkpointing", False),
        ("seed", "3.0", "seed", 3),
        ("seed", "3.", "seed", 3),
        ("seed", "3", "seed", 3),
    ],
)
def test_values_as_spreadsheets_write_them(tmp_path, header, cell, key, value):
    (job,), problems = read(tmp_path, "j.csv", f"image,class_word,{header}\na.png,face,{cell}\n")
    assert not problems and getattr(job.settings.run, key) == value


@pytest.mark.parametrize(
    ("separator", "text", "value"), [(";", "0,0005", 5e-4), ("\t", "5,0", 5), (",", "0.0005", 5e-4)]
)
def test_decimal_commas_where_commas_separate_nothing(tmp_path, separator, text, value):
    rows = [["image", "class_word", "stage2.learning_rate"], ["a.png", "face", text]]
    content = "\n".join(separator.join(row) for row in rows)
    (job,), problems = read(tmp_path, "j.csv", content)
    assert not problems and job.settings.stage2.learning_rate == value


@pytest.mark.parametrize("cell", ["1.000", "3.5", "3,0,0", "three"])
def test_whole_numbers_that_are_none_are_refused(tmp_path, cell):
    """1.000 may be a thousand."""
    _, problems = read(tmp_path, "j.csv", f"image;class_word;seed\na.png;face;{cell}\n")
    assert len(problems) == 1 and "run.seed must be a whole number" in problems[0]


@pytest.mark.parametrize("name", ["", "Unnamed: 0"])
def test_a_column_of_row_numbers_is_none(tmp_path, name):
    jobs, problems = read(tmp_path, "j.csv", f"{name},image,class_word\n0,a.png,face\n1,b.png,face\n")
    assert not problems and [job.name for job in jobs] == ["a", "b"]
    with pytest.raises(ConfigError, match="line 2 has a cell in a column without a name"):
        read(tmp_path, "j.csv", f"{name},image,class_word\nzero,a.png,face\n")


def test_columns_that_are_called_alike(tmp_path):
    with pytest.raises(ConfigError, match="two columns are called 'image'"):
        read(tmp_path, "j.csv", "image,image\na.png,b.png\n")


JOB = '[[job]]\nclass_word = "face"\n'


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("j.toml", 'job = ["a.jpg"]', "write [[job]], twice bracketed"),
        ("j.toml", "job = [1, 2]", "write [[job]], twice bracketed"),
        ("j.toml", "job = [[1]]", "write [[job]], twice bracketed"),
        ("j.toml", 'job = "a.jpg"', "write [[job]], twice bracketed"),
        ("j.toml", "defaults = 3", "write [[job]], twice bracketed"),
        ("j.toml", "x = " + "[" * 2000, "nested too deeply"),
        ("j.toml", f"{JOB}seed = {'9' * 5000}", "too many digits"),
        ("j.toml", f"{JOB}seed = {'9' * 100}", "more than 64 bits"),
        ("j.toml", f'{JOB}image = "C:\\Users\\a.jpg"', "write Windows paths in single quotes"),
        ("j.toml", f'{JOB}image = "C:\\temp\\a.jpg"', "write Windows paths in single quotes"),
        ("j.toml", f'{JOB}image = "a.png"\nconfig_file = "\\u0000"', "holds a control character"),
        ("j.toml", f'{JOB}image = "a.png"\nname = "index.html"', "is that of the batch's own page or table"),
        ("j.toml", f'{JOB}image = "a.png"\nname = "Results.CSV"', "is that of the batch's own page or table"),
        ("j.toml", f'{JOB}image = "a.png"\nname = "concept"', "means something else in prompts"),
        (
            "j.toml",
            f'{JOB}image = "a.png"\nresume_from_checkpoint = "latest"',
            "is the batch's to decide: leave it out",
        ),
        (
            "j.toml",
            f'{JOB}image = "a.png"\nname = "a.b"\nsave.formats = ["webui", "bundle"]',
            "splits the names in a bundle at dots",
        ),
        ("j.toml", f'{JOB}image = "a.png"\nclass_word = 3', "is not valid TOML"),
        ("j.toml", '[[job]]\nimage = "a.png"\nclass_word = 3', "data.class_word must be a list of texts"),
        ("j.toml", f'{JOB}image = "a.png"\nname = ["x"]', "name must be a text"),
        ("j.toml", f'{JOB}image = "a.png"\nsave.formats = [[]]', "save.formats[0] is [], but must be one of"),
        ("j.toml", f'{JOB}image = ["a.png", 3]', "data.image[1] must be a text"),
        ("j.toml", f'{JOB}image = {{"\\n" = false}}', "unknown key image"),
        ("j.csv", f"image,class_word\na.png,{'x' * 131_073}\n", "cannot be read as CSV: field larger"),
        ("j.csv", f"image,class_word,seed\na.png,face,{'9' * 5000}\n", "run.seed must be a whole number"),
        ("j.csv", f"{'x' * 100_000}\na.png\n", "unknown key"),
        ("j.csv", b"image,class_word\na\0.png,face\n", "control character"),
        ("j.csv", "", "holds no jobs"),
    ],
)
def test_odd_lists_are_one_short_line(tmp_path, name, content, says):
    try:
        jobs, problems = read(tmp_path, name, content)
    except (ConfigError, InputError) as problem:
        jobs, problems = [], [str(problem)]
    (line,) = problems
    assert says in line and not jobs and "\n" not in line and len(line) < 600, line


def test_home_is_meant_by_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (job,), _ = read(tmp_path, "j.toml", '[[job]]\nimage = "~/anna.png"\nmask = "~/m"\nclass_word = "face"\n')
    assert job.settings.data.image == (str(tmp_path / "home/anna.png"),)
    assert job.settings.data.mask == (str(tmp_path / "home/m"),)
    assert main(["~/nowhere", "--dry_run"]) == 2 and main([str(tmp_path), "--output_dir", "~/out", "--dry_run"]) == 2
    assert not Path("~").exists()


def photos(tmp_path: Path) -> Path:
    for kind, name in (("face", "annaxy"), ("black_cat", "rexy")):
        draw_subject(tmp_path / "photos" / kind, name)
    return tmp_path / "photos"


def test_a_preset_that_is_given_beats_a_folders_name_and_a_class_folder_beats_the_flag(tmp_path):
    source = photos(tmp_path)
    flags = {"data.class_word": "dog"}
    jobs, problems = read_jobs(source, tmp_path / "out", preset="mini", flags=flags)
    assert not problems and [job.preset for job in jobs] == ["mini", "mini"]
    assert [job.settings.data.class_word for job in jobs] == [("black cat",), ("face",)]
    assert {job.settings.model.pretrained_model_name_or_path for job in jobs} == {"mini-sd"}
    jobs, _ = read_jobs(source, tmp_path / "out", flags=flags)
    assert [job.preset for job in jobs] == ["", "face"]


def test_masks_of_a_folder(tmp_path):
    source = photos(tmp_path)
    (source / "face/annaxy_mask.png").rename(source / "face/AnnaXY_Mask.PNG")
    (source / "black_cat/rexy_mask.png").rename(source / "black_cat/rexy-masklabel.png")
    jobs, problems = read_jobs(source, tmp_path / "out")
    assert not problems and [Path(job.settings.data.mask[0]).name for job in jobs] == [
        "rexy-masklabel.png",
        "AnnaXY_Mask.PNG",
    ]
    Image.new("L", (80, 64)).save(source / "face/annaxy_mask.jpg")
    jobs, problems = read_jobs(source, tmp_path / "out")
    assert [job.name for job in jobs] == ["rexy"] and "several masks for annaxy.png" in problems[0]


def test_what_a_folder_leaves_out(tmp_path):
    source = photos(tmp_path)
    (source / "face/more").mkdir()
    (source / "face/a.jpg~").write_bytes(b"")
    lines = left_out(source)
    assert any("a.jpg~: no picture" in line for line in lines) and any(
        "more/: folders in a class's" in line for line in lines
    )
    assert left_out(tmp_path / "j.toml") == []


def test_a_list_and_an_evaluation_see_the_mask_beside_the_picture(tmp_path):
    """Its bytes are in the fingerprint, and travel with a job to another machine."""
    image, mask = draw_subject(tmp_path / "in")
    (job,), _ = read(tmp_path, "j.toml", '[[job]]\nimage = "in/pic.png"\nclass_word = "face"\n')
    inputs = read_inputs(job.settings)
    assert inputs == {"image/0/pic.png": image.read_bytes(), "beside/0/pic_mask.png": mask.read_bytes()}
    there = with_inputs(job.settings, inputs, tmp_path / "there")
    (moved,) = there.data.image
    assert moved.endswith("pic.png") and Path(moved).read_bytes() == image.read_bytes()
    assert Path(moved).with_name("pic_mask.png").read_bytes() == mask.read_bytes()
    mask.unlink()
    assert digest_of(read_inputs(job.settings)) != digest_of(inputs)


def test_a_description_in_metadata_travels_and_counts_as_one_beside_the_picture(tmp_path):
    draw_subject(tmp_path / "in")
    (job,), _ = read(tmp_path, "j.toml", '[[job]]\nimage = "in/pic.png"\nclass_word = "face"\n')
    plain = digest_of(read_inputs(job.settings))
    (tmp_path / "in" / "metadata.jsonl").write_text('{"file_name": "pic.png", "text": "a face on snow"}\n')
    inputs = read_inputs(job.settings)
    assert digest_of(inputs) != plain
    (moved,) = with_inputs(job.settings, inputs, tmp_path / "there").data.image
    assert read_caption(moved) == "a face on snow"
    (tmp_path / "in" / "metadata.jsonl").write_text("rubbish")
    assert digest_of(read_inputs(job.settings)) == plain  # the job says what is wrong with it


def test_the_dry_run_says_what_would_surprise(tmp_path, tiny_sd, capsys):
    source = photos(tmp_path)
    (source / "face/annaxy_mask.png").unlink()
    (source / "face/b.jpg~").write_bytes(b"")
    jobs = tmp_path / "j.toml"
    jobs.write_text(
        f'[[job]]\nimage = "{source}/face/annaxy.png"\npreset = "mini"\n'
        f'[[job]]\nimage = "{source}/black_cat/rexy.png"\nclass_word = "cat"\n'
        f'pretrained_model_name_or_path = "{tiny_sd}"\n'
    )
    main([str(jobs), "--dry_run", "--output_dir", str(tmp_path / "out")])
    said = capsys.readouterr().out
    assert "note: 2 base models will be loaded, one after the other: mini-sd (1 of the jobs)" in said
    assert "note: annaxy: no mask file, and none was looked for yet" in said
    assert f"mask {source}/black_cat/rexy_mask.png" in said
    assert main([str(source), "--dry_run", "--preset", "mini", "--output_dir", str(tmp_path / "out")]) == 0
    assert "b.jpg~: no picture that is read" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("./nowhere", "no model folder"), ("~/nowhere", "no model folder"), ("a/b/c", "no model folder"),
        ("nobody/of-this-name", "is not in the hub's cache, and HF_HUB_OFFLINE forbids to fetch it"),
    ],
)  # fmt: skip
def test_the_dry_run_says_when_a_model_is_not_there(tmp_path, capsys, model, says):
    words = [str(photos(tmp_path)), "--dry_run", "--output_dir", str(tmp_path / "out")]
    assert main([*words, "--pretrained_model_name_or_path", model]) == 2
    assert says in capsys.readouterr().err


def test_one_mask_for_all_is_no_file_but_a_folder(tmp_path, capsys):
    source = photos(tmp_path)
    words = [str(source), "--dry_run", "--preset", "mini", "--output_dir", str(tmp_path / "out")]
    assert main([*words, "--mask", str(source / "face/annaxy_mask.png")]) == 2
    assert "--mask belongs to one job" in capsys.readouterr().err
    masks = tmp_path / "m"
    masks.mkdir()
    for kind, name in (("face", "annaxy"), ("black_cat", "rexy")):
        (masks / f"{name}.png").write_bytes((source / kind / f"{name}_mask.png").read_bytes())
    assert main([*words, "--mask", str(masks)]) == 0
    assert f"mask {masks}/rexy.png" in capsys.readouterr().out
