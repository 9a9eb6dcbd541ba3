"""Rows of methods that build on others, with descriptions and negative prompts; and SID's own set of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from singleinsert.config import Settings, load_settings
from singleinsert.config.load import to_values
from singleinsert.errors import ConfigError
from singleinsert.evaluate.methods import MethodSet, load_methods
from singleinsert.evaluate.plan import ConceptPlan
from singleinsert.evaluate.prompt_lists import prompts_for
from singleinsert.training.stages import stages_of

SET = """title = "t"
[[method]]
name = "plain"
label = "plain"
group = "g"
note = "of its own"
paper = { ESR = 0.5 }
settings.caption.mode = "off"
settings.stage2.steps = 7
preset.mini.stage2.batch_size = 2
[[method]]
name = "told"
label = "told"
like = "plain"
caption = "case3"
settings.caption.mode = "O2"
preset.mini.stage2.learning_rate = 0.5
[[method]]
name = "without"
label = "without"
like = "plain"
negative = "description"
masked = true
[[published]]
label = "Encoder"
why = "cannot be trained"
paper = { SA = 0.7 }
"""


def methods(folder: Path, text: str = SET) -> MethodSet:
    (folder / "set.toml").write_text(text)
    return load_methods(folder / "set.toml")


def settings(folder: Path, **values: object) -> Settings:
    (folder / "me.png").touch()
    return load_settings("mini", None, {"data.image": str(folder / "me.png"), "data.class_word": "face"} | values)


def test_a_row_takes_over_what_is_not_its_own(tmp_path):
    found = methods(tmp_path)
    plain, told, without = found.methods
    assert told.settings == {"caption.mode": "O2", "stage2.steps": 7}
    assert told.for_preset["mini"] == {"stage2.batch_size": 2, "stage2.learning_rate": 0.5}
    assert (told.group, told.note, dict(told.paper)) == ("", "", {}) and plain.note == "of its own"
    assert without.caption == "" and without.masked and not told.masked
    assert [row.label for row in found.published] == ["Encoder"] and found.published[0].paper == {"SA": 0.7}
    with pytest.raises(ConfigError, match="like 'none' is no row above it"):
        methods(tmp_path, SET.replace('like = "plain"\ncaption', 'like = "none"\ncaption'))


def test_descriptions_by_name_and_negative_prompts(tmp_path):
    _, told, without = methods(tmp_path).methods
    base = settings(tmp_path)
    with pytest.raises(ConfigError, match=r"me.case3.txt is missing") as error:
        told.applied(base, "mini")
    assert "\n" not in str(error.value)
    (tmp_path / "me.case3.txt").write_text("a photo of a * face wearing a red hat")
    assert told.applied(base, "mini").data.description == ("a photo of a {concept} face wearing a red hat",)
    with pytest.raises(ConfigError, match=r"no description of me.png"):
        without.negative_prompt(without.applied(base, "mini"))
    (tmp_path / "me.txt").write_text("a photo of a * face with green eyes wearing a red hat on pink fabric")
    assert without.negative_prompt(without.applied(base, "mini")) == "red hat, pink fabric"
    plan = ConceptPlan(
        "me", {"told": base, "without": base}, prompts_for("mini", "face")[:1], 1, {"without": "red hat"}
    )
    assert [plan.asked(name)[0][1].negative_prompt for name in ("told", "without")] == ["", "red hat"]


def test_prompts_beside_the_picture(tmp_path):
    (tmp_path / "me.prompts.toml").write_text(
        'title = "t"\n[[prompt]]\ntext = "{concept}"\ntarget = [{ question = "?" }]\n'
    )
    assert [p.text for p in prompts_for("beside", "face", tmp_path / "me.png")] == ["{concept}"]


def test_sid_rows_differ_by_one_field_and_can_be_trained(tmp_path):
    found = load_methods("sid")
    for preset in ("mini", "paper"):
        base = load_settings(
            preset, None, {"data.image": str(settings(tmp_path).data.image[0]), "data.class_word": "face"}
        )
        values = {}
        for method in found.methods:
            applied = method.applied(base, preset)
            assert stages_of(applied)
            values[method.name] = to_values(applied)
        pairs = [name for name in values if name.endswith("-sid")]
        assert len(pairs) == 6
        for name in pairs:
            plain = values[name.removesuffix("-sid")]
            assert {key for key in plain if plain[key] != values[name][key]} == {"caption.mode"}
    assert {row.label for row in found.published} == {"ELITE", "BLIP-Diffusion"}
