"""Prompts of training that vary: which samples, which losses, and what the bank allows."""

from __future__ import annotations

from collections import Counter

import pytest
from PIL import Image
from runs import QUIET, small_settings

from singleinsert.data.subject import Handle
from singleinsert.errors import ConfigError
from singleinsert.training.encode import make_prompting
from singleinsert.training.prepare import find_material
from singleinsert.training.prompting import OneSubject, StepPrompt, Variation, VariedPrompts
from singleinsert.training.run import train

HANDLE = Handle("face", "face", "*")
PLAIN = OneSubject(0, HANDLE, ("",))
PLACES = ("{concept} in the snow", "{concept} on the beach")
EDITS = ("a painting of {placeholder} {class_word}",)


def asked(**changes) -> list[StepPrompt]:
    prompting = VariedPrompts(PLAIN, {"stage2": Variation(**({"places": PLACES, "edits": EDITS} | changes))})
    return [prompting.at("stage2", sample) for sample in range(400)]


def test_a_share_of_the_samples_is_asked_with_each_template():
    found = asked(share=0.75)
    count = Counter(prompt.prompt for prompt in found)
    assert set(count) == {"* face", "* face in the snow", "* face on the beach", "a painting of * face"}
    assert count["* face"] == pytest.approx(100, abs=30) and min(count.values()) > 60
    for prompt in found:  # both models are asked the same, but for the concept
        assert prompt.frozen_prompt == prompt.class_prompt == prompt.prompt.replace("* ", "")
        assert prompt.shown == (prompt.prompt == "* face")
    assert found == asked(share=0.75)
    assert {prompt.prompt for prompt in asked(share=0.0)} == {"* face"}


def test_the_foreground_may_be_asked_in_other_places_but_never_with_an_edit():
    shown = {prompt.prompt for prompt in asked(foreground=True) if prompt.shown}
    assert shown == {"* face", "* face in the snow", "* face on the beach"}


def test_of_a_described_picture_the_foreground_is_asked_with_its_description_alone():
    """The hat in it is said by the description and by no template: it would be learnt with the face."""
    described = OneSubject(0, HANDLE, ("{concept} wearing a red hat",))
    prompting = VariedPrompts(described, {"stage2": Variation(PLACES, EDITS, foreground=True)})
    found = [prompting.at("stage2", sample) for sample in range(100)]
    assert {prompt.prompt for prompt in found if prompt.shown} == {"* face wearing a red hat"}
    assert {prompt.prompt for prompt in found if not prompt.shown} > {"* face in the snow", "a painting of * face"}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"stage2__objective": "full_image"}, "objective full_image asks the training prompt alone"),
        ({"data__class_word": ("face", "cup"), "data__mask": ("left.png", "right.png")}, "scene.prompt asks"),
    ],
)
def test_templates_without_a_use_are_said_and_not_asked(changes, why, tmp_path, tiny_sd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, box in (("left", (4, 4, 30, 60)), ("right", (34, 4, 60, 60))):
        mask = Image.new("L", (80, 64), 0)
        mask.paste(255, box)
        mask.save(f"{name}.png")
    settings = small_settings(tmp_path, tiny_sd, stage2__prompt_places=PLACES, **changes)
    said: list[str] = []
    prompting = make_prompting(settings, find_material(settings, str), said.append)
    assert said == [f"stage2.prompt_places and prompt_edits are not used: {why}"]
    assert not {prompting.at("stage2", sample).prompt for sample in range(50)} & {"* face in the snow"}


def test_every_term_is_asked_with_the_template():
    assert {prompt.class_prompt for prompt in asked()} == {prompt.frozen_prompt for prompt in asked()}
    assert {prompt.class_prompt for prompt in asked()} > {"face", "face in the snow"}


def test_other_stages_and_every_prompt_to_be_checked():
    prompting = VariedPrompts(PLAIN, {"stage2": Variation(PLACES, EDITS)})
    assert [prompting.at("stage1", sample) for sample in range(9)] == [PLAIN.at("stage1", s) for s in range(9)]
    assert {each.prompt for each in asked()} <= {each.prompt for each in prompting.all_prompts()}


def test_a_run_learns_with_them_and_they_change_it(tmp_path, tiny_sd):
    given = {"stage2__prompt_places": PLACES, "stage2__prompt_edits": EDITS, "run__teacher_bank": False}
    varied = train(small_settings(tmp_path / "varied", tiny_sd, **given), watch=QUIET).artifact
    plain = train(small_settings(tmp_path / "plain", tiny_sd, run__teacher_bank=False), watch=QUIET).artifact
    assert not varied.concept.embeddings["text_encoder"].equal(plain.concept.embeddings["text_encoder"])


def test_a_template_that_asks_for_nobody_is_refused(tmp_path, tiny_sd):
    for text, message in (("a face in the snow", "does not hold {concept}"), ("{concpt} in the snow", "did you mean")):
        with pytest.raises(ConfigError, match=message):
            small_settings(tmp_path, tiny_sd, stage2__prompt_edits=(text,))


def test_a_bank_serves_only_samples_that_are_asked_the_same(tmp_path, tiny_sd):
    with pytest.raises(ConfigError, match="stage2 is asked what stage1 was asked"):
        train(small_settings(tmp_path, tiny_sd, stage2__prompt_places=PLACES), watch=QUIET)
    both = {"stage1__prompt_places": PLACES, "stage2__prompt_places": PLACES}
    with pytest.raises(ConfigError, match="stage2 is asked what stage1 was asked"):
        train(small_settings(tmp_path, tiny_sd, **both, stage2__prompt_share=0.1), watch=QUIET)
    train(small_settings(tmp_path, tiny_sd, **both), watch=QUIET)
