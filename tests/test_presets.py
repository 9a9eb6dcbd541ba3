"""Every preset loads, alone and below a file, and says only what it must."""

from __future__ import annotations

from dataclasses import fields

import pytest

from singleinsert.config import Settings, load_settings, preset_names, to_toml
from singleinsert.config.load import presets_folder, read_values, to_values
from singleinsert.data.prompts import fill
from singleinsert.errors import ConfigError
from singleinsert.evaluate.prompt_lists import load_prompts
from singleinsert.losses import OBJECTIVES, SingleInsert

NAMES = preset_names()


def test_the_promised_presets_are_there():
    assert {"face", "hair", "clothes", "object", "pet", "paper", "mini"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_loads_and_can_be_fed_back(name, tmp_path):
    settings = load_settings(name)
    path = tmp_path / "resolved.toml"
    path.write_bytes(to_toml(settings).encode())
    assert load_settings(config_file=path) == settings


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_begins_by_saying_what_it_is_for(name):
    assert (presets_folder() / f"{name}.toml").read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize("name", [name for name in NAMES if not name.endswith("paper") and name != "plain"])
def test_a_preset_holds_only_what_differs(name):
    defaults = to_values(Settings())
    same = [key for key, value in read_values(presets_folder() / f"{name}.toml").items() if value == defaults[key]]
    assert not same, f"{name}.toml repeats defaults: {same}"


@pytest.mark.parametrize("name", NAMES)
def test_sample_prompts_show_the_concept(name):
    for prompt in load_settings(name).sample.prompts:
        assert "<me>" in fill(prompt, "<me>", "face"), prompt


def test_the_paper_is_written_out_in_full():
    """Better defaults may come; what the paper did stays readable in one file."""
    values = read_values(presets_folder() / "paper.toml")
    settings = Settings()
    others = {field.name for build in OBJECTIVES.values() for field in fields(build)}  # settings of other objectives
    others -= {field.name for field in fields(SingleInsert)}
    for section in ("stage1", "stage2"):
        keys = {key for key in to_values(settings) if key.startswith(f"{section}.")}
        assert keys - {f"{section}.{name}" for name in others} <= set(values)
    expected = {
        "stage1.steps": 50, "stage1.batch_size": 16, "stage1.learning_rate": 1e-4, "stage1.semantic_weight": 0.0,
        "stage2.steps": 100, "stage2.batch_size": 4, "stage2.learning_rate": 5e-5, "stage2.semantic_weight": 1.0,
        "stage1.foreground_weight": 1.0, "stage1.background_weight": 1.0, "stage1.loss_space": "x0",
        "stage2.foreground_weight": 1.0, "stage2.background_weight": 1.0, "stage2.loss_space": "x0",
        "stage1.trains": ("concept",), "stage2.trains": ("concept", "denoiser", "text"),
        "adapter.network_dim": 4, "adapter.network_alpha": 4.0, "concept.type": "vit", "concept.residual": False,
        "concept.patch_size": 32, "concept.image_size": 224, "data.resolution": 512,
    }  # fmt: skip
    assert {key: values[key] for key in expected} == expected


@pytest.mark.parametrize("subject", ["face", "hair", "clothes", "object", "pet"])
def test_what_a_picture_shows_and_what_model_learns_it_are_joined(subject):
    """Both presets' keys, whichever comes first, since they share none; of two that share one, the later wins."""
    joined, one, other = (load_settings(name) for name in (f"{subject}+sdxl", subject, f"sdxl+{subject}"))
    assert joined == other and joined.data.resolution == 1024 and joined.sample.guidance_scale == 5.0
    assert (joined.sample.prompts, joined.data.class_word) == (one.sample.prompts, one.data.class_word)
    assert load_settings("face+mini").data.crop == "zoom" and load_settings("sdxl+mini").data.resolution == 64
    with pytest.raises(ConfigError, match="unknown preset 'sdlx'; did you mean sdxl"):
        load_settings(f"{subject}+sdlx")


@pytest.mark.parametrize("subject", ["face", "hair", "clothes", "object", "pet", "mini"])
def test_plain_leaves_the_method_of_the_paper(subject):
    """What presets change of SingleInsert is said in one place: below plain nothing but data, draws and pictures."""
    defaults, plain = to_values(Settings()), to_values(load_settings(f"{subject}+plain"))
    draws = {"stage1.batch_size", "stage1.timestep_importance", "stage1.stratified_timesteps"}
    brought = {"stage1.learning_rate", "stage2.learning_rate"} if subject == "mini" else set()
    sections = ("concept.num_vectors", "concept.residual", "adapter.", "stage1.", "stage2.", "run.")
    changed = {key for key, value in plain.items() if key.startswith(sections) and value != defaults[key]}
    assert changed == draws | brought
    own = load_settings(subject)
    assert own.stage1.prompt_places == own.stage2.prompt_places and len(own.stage1.prompt_places) == 4
    assert own.stage1.prompt_edits == own.stage2.prompt_edits and own.adapter.network_dim == 16


def test_training_is_not_asked_what_the_evaluation_asks():
    """The presets' templates and the lists of evaluation share no place, dress or style."""
    for subject in ("face", "hair", "clothes", "object", "pet"):
        stage = load_settings(subject).stage1
        asked = " ".join(prompt.text for prompt in load_prompts(subject).prompts)
        for template in (*stage.prompt_places, *stage.prompt_edits):
            assert template not in asked
            rest = template.split("{concept}")[1].strip()
            assert not rest or rest not in asked, template


def test_mini_names_the_bundled_model():
    assert load_settings("mini").model.pretrained_model_name_or_path == "mini-sd"


def test_unknown_presets_name_the_nearest():
    with pytest.raises(ConfigError, match="unknown preset 'fce'; did you mean face"):
        load_settings("fce")
    with pytest.raises(ConfigError, match="give my.toml as --config_file"):
        load_settings("my.toml")
