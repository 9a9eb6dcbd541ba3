"""The measurement of levers: which instances, what the ceilings are asked, and how rows are compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from singleinsert.config import load_settings
from singleinsert.evaluate.methods import load_methods
from singleinsert.evaluate.prompt_lists import load_prompts
from singleinsert.evaluate.results import Results, Sample
from singleinsert.training.stages import stages_of
from testbed import levers
from testbed.instances import (
    asked,
    description,
    held_out_instance,
    other_scenes,
    subjects,
    subjects_to_choose_by,
    subjects_to_report_by,
)
from testbed.labels import visible
from testbed.tokenizer import words

METHODS = load_methods("levers").methods
SAID_IN_TRAINING = ("stage1.prompt_places", "stage1.prompt_edits", "stage2.prompt_places", "stage2.prompt_edits")


def test_what_is_chosen_by_is_reported_on_others() -> None:
    sets = [
        [scene.instances[0] for _, scene in found()]
        for found in (subjects_to_choose_by, subjects, subjects_to_report_by)
    ]
    assert [len(found) for found in sets] == [6, 20, 20]
    everything = [instance for found in sets for instance in found]
    assert all(held_out_instance(instance) for instance in everything)
    assert len({instance.key for instance in everything}) == 46


def test_every_row_is_a_run_that_can_be_had() -> None:
    base = load_settings("mini+plain")
    for method in METHODS:
        assert stages_of(method.applied(base, "mini+plain")), method.name
    assert METHODS[0].applied(base, "mini+plain") == base
    (chosen,) = [method for method in METHODS if method.name == "chosen"]
    assert chosen.applied(base, "mini+plain") == load_settings("mini")  # what the preset is, and nothing else


def test_training_is_not_asked_what_the_evaluation_asks() -> None:
    evaluated = [prompt.text for prompt in load_prompts("mini").prompts]
    for method in METHODS:
        said = {text for key in SAID_IN_TRAINING for text in method.settings.get(key, ())}
        phrases = {text.replace("{concept}", "").strip() for text in said}
        assert {word for phrase in phrases for word in phrase.split()} <= {*words()}
        asked_later = {phrase for phrase in phrases if any(phrase in text for text in evaluated)}
        assert asked_later == (phrases if method.name == "prompts-asked" else set()), method.name


def test_the_ceiling_of_words_says_all_that_there_is_to_say() -> None:
    face = dict(subjects_to_choose_by())["face0"]
    snow, glasses = (p for p in load_prompts("mini").for_class("face") if "scarf in" in p.text or "surprised" in p.text)
    assert levers.in_full(face, snow) == (
        "a photo of a freckled face with brown skin, square head, big eyes, brown eyes, big nose, small ears and spiky "
        "white hair wearing a blue scarf in the snow"
    )
    assert levers.in_full(face, glasses).endswith("spiky white hair wearing glasses")  # no place was asked for


def test_the_ceiling_of_drawings_has_not_seen_what_is_asked() -> None:
    for _, scene in subjects_to_choose_by():
        cls = scene.instances[0].cls
        scenes = other_scenes(scene, 11)
        assert len(scenes) == 11 and all(other.instances == scene.instances for other in scenes)
        for other in scenes:
            shown = visible(other)
            for prompt in load_prompts("mini").for_class(cls):
                assert not asked(prompt).items() <= shown.items()
            text = description(other)
            assert "{concept}" in text and set(text.replace("{concept}", "").replace(",", "").split()) <= {*words()}


def test_rows_are_compared_in_pairs_and_missing_ones_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = {
        "default": {"face0": {"identity": 0.5, "obeyed": 0.6}, "cat0": {"identity": 0.7, "obeyed": 0.8}},
        "v-fresh": {"face0": {"identity": 0.6, "obeyed": 0.6}, "cat0": {"identity": 0.8, "obeyed": 0.9}},
        "drawn": {"face0": {"identity": 0.9}},
    }
    text = levers.table(scores, "default").splitlines()
    assert text[2].startswith(
        "| default: SingleInsert's own method | 2 | 0.600<br><sub>0.500 to 0.700</sub> |  |  |  | 0.700<br><sub>0.600"
    )
    assert "| 2 | 0.700<br><sub>**+0.100 (+0.100 to +0.100)**</sub> |" in text[3]
    assert "0.750<br><sub>+0.050 (+0.000 to +0.100)</sub>" in text[3]
    assert text[4].startswith("| drawn | 1 | 0.900<br><sub>**+0.400")  # of the instance that both have
    monkeypatch.setattr(levers, "FOLDER", tmp_path)
    instances = [f"face{place}" for place, _ in enumerate(subjects_to_choose_by())]
    for name, concepts in (("default", instances), ("values", instances[1:])):  # values was interrupted
        asked_for = [{"name": each, "class_word": "face", "prompts": [{"text": "*"}]} for each in concepts]
        samples = [Sample(name, each, 0, 0, "") for each in concepts]
        (tmp_path / "rows" / name).mkdir(parents=True)
        Results("", {"cache": ""}, [{"name": name}], [], asked_for, samples).save(tmp_path / "rows" / name)
    assert levers.missing_rows([]) == [method.name for method in METHODS[1:]]
    assert levers.missing_rows(["values", "default", "v-fresh"]) == ["v-fresh", "values"]
