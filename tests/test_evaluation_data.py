"""Prompt lists, sets of methods and protocols: all of them load, and say what they promise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import testbed
from singleinsert.config import load_settings
from singleinsert.config.load import to_values
from singleinsert.data.prompts import fill
from singleinsert.errors import ConfigError
from singleinsert.evaluate.columns import PAPER
from singleinsert.evaluate.methods import load_methods, set_names
from singleinsert.evaluate.prompt_lists import list_names, load_prompts, prompts_for
from singleinsert.evaluate.protocol import load_protocol
from testbed.labels import HEADS, head_of

MINI_CLASSES = ("face", "cat", "dog", "cup", "car", "tree")


@pytest.mark.parametrize("name", list_names())
def test_every_prompt_has_targets_and_is_there_once(name):
    found = load_prompts(name)
    texts = [(prompt.text, prompt.classes) for prompt in found.prompts]
    assert len(set(texts)) == len(texts) >= (6 if name == "mini-scenes" else 10)
    for prompt in found.prompts:
        assert 1 <= len(prompt.targets) <= 2
        assert fill(prompt.text, "*", "face").count("* face") == 1
        assert all(target.question.endswith("?") for target in prompt.targets)


def test_the_lists_have_the_papers_numbers_of_prompts():
    counts = {name: len(load_prompts(name).prompts) for name in list_names()}
    assert counts.pop("mini") == 50  # ten a class, cats and dogs have the same
    assert counts.pop("mini-scenes") == 6
    assert counts == {
        "face": 10, "hair": 10, "clothes": 10, "object": 10, "pet": 10, "break-a-scene": 10,
        "dreambooth-objects": 25, "dreambooth-live": 25,
    }  # fmt: skip


@pytest.mark.parametrize("word", MINI_CLASSES)
def test_the_drawn_worlds_labels_are_the_judges(word):
    """Each label is one of the judge's heads for that class, with one of its values; and no training background."""
    from testbed.instances import TRAINING_BACKGROUNDS

    prompts = load_prompts("mini").for_class(word)
    assert len(prompts) == 10
    for prompt in prompts:
        for target in prompt.targets:
            for attribute, value in target.label.items():
                head = head_of(word, attribute)
                assert head is not None and value in HEADS[head], (prompt.text, attribute, value)
                assert attribute != "background" or value not in TRAINING_BACKGROUNDS


def test_the_drawn_worlds_words_are_in_its_vocabulary():
    from testbed.tokenizer import words

    known = set(words())
    for prompt in load_prompts("mini").prompts:
        said = prompt.without_concept("cat").lower().replace(",", " ").split()
        assert set(said) <= known | {"*"}, prompt.text


def test_a_class_finds_its_list():
    assert prompts_for("auto", "woman") == load_prompts("face").prompts
    assert prompts_for("auto", "kitten") == load_prompts("pet").prompts
    assert prompts_for("auto", "teapot") == load_prompts("object").prompts
    assert load_prompts("face").prompts[0].without_concept("man") == "man with teal hair, in front of a pink wall"
    with pytest.raises(ConfigError, match="unknown prompt list 'fce'; did you mean face"):
        prompts_for("fce", "face")
    with pytest.raises(ConfigError, match="prompt list mini has no prompts for 'boat'"):
        prompts_for("mini", "boat")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('title = "a"\nprompts = []', "unknown key prompts; did you mean prompt"),
        ('title = "a"\n[[prompt]]\ntext = "x"\n[[prompt.target]]\nquestion = "?"', r"must hold \{concept\} once"),
        ('title = "a"\n[[prompt]]\ntext = "* x"', "target is missing"),
        ('title = "a"\n[[prompt]]\ntext = "* x"\ntarget = []', "one or two"),
        ('title = "a"\n[[prompt]]\ntext = "* x"\n[[prompt.target]]\nquestion = "?"\nlabels = {}', "did you mean label"),
        ('title = "a"\n[[prompt]]\ntext = "* x"\n[[prompt.target]]\nquestion = "?"\nlabel = { a = 1 }', "of texts"),
        ("title = ", "is not valid TOML"),
    ],
)
def test_a_wrong_list_is_refused_in_a_line(tmp_path, text, message):
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as raised:
        load_prompts(path)
    assert "\n" not in str(raised.value)


PLAIN = ("mini+plain", "paper", "face+plain")
SETS = {name: PLAIN if name == "levers" else ("mini", "face", *PLAIN) for name in set_names()}
"""The presets that a set's rows can stand on: those of levers change what plain leaves, and some are what mini is."""


@pytest.mark.parametrize(("name", "preset"), [(name, preset) for name, presets in SETS.items() for preset in presets])
def test_every_set_of_methods_goes_with_every_preset(name, preset):
    from singleinsert.training.stages import stages_of

    found = load_methods(name).with_preset(preset)
    seen = []
    for method in found.methods:
        base = method.base or preset
        concepts = ["cat", "mug", "tree"] if base == "scene" else ["cat"]  # more than its steps are for
        settings = method.applied(load_settings(base, None, {"data.class_word": concepts}), base)
        assert stages_of(settings)
        row = settings, method.caption, method.negative, method.apart, method.merged
        assert row not in seen, f"{method.name} is another row again"
        seen.append(row)


def test_table_2_has_the_papers_seven_rows():
    """Stage II stands on the paper's stage I in all of its rows; the losses are those of the row."""
    found = load_methods("table2")
    assert [m.label for m in found.methods][:3] == [
        "baseline",
        "+ foreground loss",
        "+ foreground, background",
    ] and len(found.methods) == 7
    assert all(tuple(m.paper) == PAPER for m in found.methods)
    base = load_settings("paper")
    rows = [m.applied(base, "paper") for m in found.methods]
    stage1 = [(s.stage1.objective, s.stage1.foreground_weight, s.stage1.background_weight) for s in rows]
    assert stage1 == [("full_image", 1, 1), ("singleinsert", 1, 0)] + [("singleinsert", 1, 1)] * 5
    stage2 = [(s.stage2.steps, s.stage2.objective, s.stage2.background_weight, s.stage2.semantic_weight) for s in rows]
    assert [row[0] for row in stage2] == [0, 0, 0, 100, 100, 100, 100]
    assert stage2[3][1] == "full_image" and rows[3].stage2.loss_space == rows[0].stage1.loss_space == "x0"
    assert [row[2:] for row in stage2[4:]] == [(0, 0), (1, 0), (1, 1)]
    assert rows[6] == base
    own = {m.name: m.applied(base, "paper") for m in load_methods("table2-own").methods}
    assert own["stage2-fg-own"].stage1.background_weight == 0 and own["stage2-fg-bg-sm"] == base


def test_baselines_by_their_published_settings():
    base = load_settings("paper")
    rows = {m.name: m.applied(base, "paper") for m in load_methods("table1").methods}
    assert len(rows) == 9 and len(load_methods("table1").published) == 2
    inversion, dreambooth, both = rows["ti"], rows["db-lora"], rows["ti-db-lora"]
    for settings in (inversion, both):
        assert (settings.stage1.steps, settings.stage1.batch_size, settings.stage1.learning_rate) == (3000, 1, 5e-4)
        assert settings.concept.type == "vector" and settings.concept.residual and settings.concept.init_std == 0
    for settings in (dreambooth, both):
        assert (settings.stage2.steps, settings.stage2.batch_size, settings.stage2.learning_rate) == (500, 1, 1e-4)
        assert settings.stage2.trains == ("denoiser",) and settings.adapter.network_dim == 4
    assert (inversion.stage2.steps, dreambooth.stage1.steps) == (0, 0)
    mini = {m.name: m.applied(load_settings("mini"), "mini") for m in load_methods("table1").methods}
    for name in ("ti", "db", "db-lora", "ti-db", "custom", "break-a-scene"):  # the same number of samples
        assert _samples(mini[name]) == _samples(rows[name]), name
    full, own = rows["db"], load_settings("scene-paper")
    assert (full.adapter.type, full.adapter.denoiser_targets, full.stage2.trains) == ("full", ("*",), ("denoiser",))
    assert (rows["db-lora"].adapter.type, rows["db-lora"].adapter.denoiser_targets) == ("lora", ())
    scene = rows["break-a-scene"]
    assert (scene.stage1, scene.stage2, scene.concept.type) == (own.stage1, own.stage2, own.concept.type)
    assert (scene.adapter, scene.concept.init_std) == (replace(own.adapter, network_dim=1024), own.concept.init_std)


@pytest.mark.parametrize("name", ["table1", "sid", "scenes", "scenes-techniques"])
@pytest.mark.parametrize("preset", ["face", "paper", "mini", "scene"])
def test_rows_that_train_in_full_are_drawn_with_all_of_their_change(name, preset):
    """What is drawn with is a LoRA: of a small rank, a row would be its own shadow (SVDiff at rank 4: 5 percent)."""
    for method in load_methods(name).methods:
        if not {*method.not_with} & {preset}:
            chosen = method.applied(load_settings(method.base or preset), method.base or preset)
            least = 1024 if preset != "mini" else 128
            assert chosen.adapter.type in ("lora", "tlora") or chosen.adapter.network_dim >= least, method.name


def _samples(settings):
    return sum(stage.steps * stage.batch_size for stage in (settings.stage1, settings.stage2))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name = "a"\nlabel = "a"\nsettings.stage1.step = 3', "unknown key stage1.step; did you mean stage1.steps"),
        ('name = "a"\nlabel = "a"\nsettings.stage1.steps = "3"', "stage1.steps must be a whole number"),
        ('name = "a"\nlabel = "a"\npaper = { ESL = 0.1 }', "unknown key ESL; did you mean ESR"),
        ('name = "a"\nlabel = "a"\npreset.minni.run.seed = 1', "unknown key minni; did you mean mini"),
        ('name = "a/b"\nlabel = "a"', "must be a file name"),
        ('name = "b"\nlabel = "b"\nlike = "a"', "like 'a' is no row above it"),
        ('name = "b"\nlabel = "b"\nbase = "scen"', "base 'scen' is no preset; did you mean scene"),
        ('name = "b"\nlabel = "b"\napart = 1', "apart is true or false, not 1"),
        ('name = "b"\nlabel = "b"\nmodel.mini.run.seed = 1', "unknown key mini; did you mean mini-sd"),
        ('name = "b"\nlabel = "b"\n[[published]]\nlabel = "c"\npaper = {}', "why is missing"),
        ('name = "a"\nlabel = "a"\n[[method]]\nname = "a"\nlabel = "b"', "two methods are called a"),
        ('name = "a"\nlabel = "a"\n[[claim]]\nsays = "x"\ncolumn = "ESR"\nof = "a"\nagainst = "b"\ndirection = "up"',
         "against 'b'; there are: a"),
    ],
)  # fmt: skip
def test_a_wrong_set_is_refused_in_a_line(tmp_path, text, message):
    path = tmp_path / "own.toml"
    path.write_text(f'title = "t"\n[[method]]\n{text}')
    with pytest.raises(ConfigError, match=message):
        load_methods(path)


def test_a_method_wins_over_the_preset_and_nothing_else_changes():
    method = load_methods("encoders").only(["vector"]).methods[0]
    base = load_settings("mini")
    before, after = to_values(base), to_values(method.applied(base, "mini"))
    assert {key for key in before if before[key] != after[key]} == {
        "concept.type", "stage1.learning_rate",
    }  # fmt: skip
    assert after["stage1.learning_rate"] == 2e-2  # the mini preset's own line of that method


def test_protocols():
    mini, paper = load_protocol("mini"), load_protocol("face")
    assert (mini.prompts, mini.clip, mini.seeds, mini.judge, mini.concepts) == ("mini", "mini", 4, "none", "")
    # the drawn world's concepts and judge are the testbed's, which is not installed
    world = load_protocol("mini", Path(testbed.__file__).parent / "protocol.toml")
    assert world.judge == "python:testbed.esr:judge" and replace(world, judge="none", concepts="") == mini
    assert (paper.prompts, paper.seeds, paper.judge) == ("auto", 10, "none")
    assert load_protocol("mini", seeds=2, clip=None).seeds == 2
    with pytest.raises(ConfigError, match="seeds is 0, but must be at least 1"):
        load_protocol("mini", seeds=0)


def test_the_testbeds_instances_are_a_list_of_concepts(tmp_path):
    """At least 20 of at least 4 classes, each with its exact mask, every one with ten prompts; the same each time."""
    from singleinsert.batch.jobs import read_jobs
    from testbed.instances import write_folder

    path = write_folder(tmp_path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    write_folder(tmp_path)
    assert before == {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    jobs, problems = read_jobs(path, tmp_path / "out", preset="mini")
    assert not problems and len(jobs) >= 20 and len({job.settings.data.class_word for job in jobs}) >= 4
    for job in jobs:
        assert job.preset == "mini" and (tmp_path / f"{job.name}_mask.png").is_file() and job.settings.data.mask
        assert len(prompts_for("mini", *job.settings.data.class_word)) == 10
