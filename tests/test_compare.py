"""Unseen instances and their prompts: what is asked, and how the comparison counts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from singleinsert.config import Settings
from testbed import compare
from testbed.compare import METHODS, PER_PROMPT, method_pictures, score, summary, table, with_article
from testbed.instances import PROMPTS, expectations, held_out_instance, subjects, write_training_picture
from testbed.judge import Judge
from testbed.tokenizer import words


def test_twenty_subjects_that_training_never_saw() -> None:
    named = dict(subjects())
    assert len(named) == 20
    assert sum(name.startswith("face") for name in named) == 10
    assert all(held_out_instance(s.instances[0]) for s in named.values())
    assert len({s.instances[0].key for s in named.values()}) == 20


def test_no_prompt_asks_for_what_the_training_picture_shows() -> None:
    for _, scene in subjects():
        for prompt in PROMPTS[scene.instances[0].cls]:
            assert prompt.background != scene.background
            bare = scene.edits[0] | {"hat_color": "none"}
            assert all(bare[k] != v for k, v in prompt.edits.items())


def test_prompts_use_known_words_that_say_what_they_change() -> None:
    for cls, prompts in PROMPTS.items():
        assert len(prompts) >= 8
        for p in prompts:
            assert set(with_article(p.text, cls).split()) <= set(words())
            for value in (p.background, *p.edits.values()):
                assert value is None or value in p.text


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("{concept} in the snow", "a cat in the snow"),
        ("a pencil sketch of {concept}", "a pencil sketch of a cat"),
        ("a smiling {concept} on the beach", "a smiling cat on the beach"),
        ("pixel art of {concept} in the desert", "pixel art of a cat in the desert"),
        ("left side view of {concept} on the beach", "left side view of a cat on the beach"),
    ],
)
def test_the_same_prompt_without_a_concept(text: str, plain: str) -> None:
    assert with_article(text, "cat") == plain


def test_a_prompt_changes_what_it_names_and_keeps_the_rest() -> None:
    scene = dict(subjects())["face0"]
    by_text = {p.text: expectations(scene, p) for p in PROMPTS["face"]}
    changed, kept = by_text["{concept} wearing a red top hat in the jungle"]
    assert changed == {"background": "jungle", "hat": "top hat", "hat_color": "red"}
    assert {"class", "skin", "head", "eye_color"} <= kept.keys()
    changed, kept = by_text["{concept} wearing sunglasses in the desert"]
    assert changed == {"background": "desert", "glasses": "sunglasses"}
    assert "eye_color" not in kept
    changed, kept = by_text["a pencil sketch of {concept}"]
    assert changed == {"style": "pencil sketch"}
    assert {"skin", "hair_color"}.isdisjoint(kept)
    changed, kept = by_text["{concept} with blue hair in the jungle"]
    assert changed.get("hair_color", "blue") == "blue"
    assert "hair_color" not in kept


def test_the_training_picture_has_an_exact_mask(tmp_path: Path) -> None:
    for name, scene in subjects({"cat": 1, "cup": 1}):
        picture, mask = (Image.open(f) for f in write_training_picture(scene, tmp_path / name))
        assert picture.size == mask.size == (64, 64)
        assert 0.1 < np.asarray(mask).mean() / 255 < 0.7


def test_true_drawings_score_nearly_full(tmp_path: Path) -> None:
    for name, scene in subjects({"face": 1, "cup": 1}):
        images = method_pictures("drawn", scene, tmp_path, tmp_path, 5.0, {})
        assert len(images) == PER_PROMPT * len(PROMPTS[scene.instances[0].cls]), name
        means = score(Judge.load(), scene, images)["means"]
        assert means["background"] == 1
        assert means["kept"] > 0.9
        assert means["identity"] > 0.7


def test_means_and_standard_errors_by_hand() -> None:
    rows = {"face0": 0.4, "cat0": 0.8}
    summed = summary({"m": {k: {"means": {"kept": v}} for k, v in rows.items()}})
    # mean 0.6; standard deviation of (0.4, 0.8) with n - 1 is 0.2828, over the root of 2 that is 0.2
    assert summed["all"]["m"] == {"instances": 2, "kept": [0.6, 0.2]}
    assert summed["faces"]["m"] == {"instances": 1, "kept": [0.4, 0.0]}
    assert "0.600 ± 0.200" in table(summed)


def test_a_methods_overrides_reach_the_run_and_keep_stage_one_at_its_share_of_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Settings] = {}
    monkeypatch.setattr(compare, "train", lambda settings, say: seen.setdefault(settings.name, settings) and stub)
    stub = SimpleNamespace(artifact=None)
    scene = dict(subjects())["face0"]
    for name, overrides in METHODS.items():
        compare.learn(scene, tmp_path / name, tmp_path, overrides | {"run.output_name": name})
    samples = {name: settings.stage1.steps * settings.stage1.batch_size for name, settings in seen.items()}
    assert samples["singleinsert"] == samples["draws"] == 4 * samples["quarter"] == 4 * samples["quarter_draws"] == 800
    for name, settings in seen.items():
        drawn = settings.stage1.timestep_importance, settings.stage1.stratified_timesteps
        assert drawn == ((0.5, True) if name.endswith("draws") else (0.0, False))
        assert settings.stage2 == seen["singleinsert"].stage2 or "draws" not in name
