"""Unseen instances and their prompts: what is asked, and how the comparison counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from singleinsert.errors import InputError
from singleinsert.evaluate.cache import Cache
from singleinsert.evaluate.prompt_lists import EditPrompt, load_prompts
from singleinsert.evaluate.results import Results, Sample
from testbed import compare
from testbed.compare import gallery, pictures_of, score, summary, table, true_drawings, with_article
from testbed.instances import asked, expectations, held_out_instance, ideal, subjects, write_training_picture
from testbed.judge import Judge
from testbed.tokenizer import words


def prompts_of(cls: str) -> tuple[EditPrompt, ...]:
    return load_prompts("mini").for_class(cls)


def test_twenty_subjects_that_training_never_saw() -> None:
    named = dict(subjects())
    assert len(named) == 20
    assert sum(name.startswith("face") for name in named) == 10
    assert all(held_out_instance(s.instances[0]) for s in named.values())
    assert len({s.instances[0].key for s in named.values()}) == 20


def test_no_prompt_asks_for_what_the_training_picture_shows() -> None:
    for _, scene in subjects():
        for prompt in prompts_of(scene.instances[0].cls):
            new = ideal(scene, prompt)
            assert "background" not in asked(prompt) or new.background != scene.background
            bare = scene.edits[0] | {"hat_color": "none"}
            assert all(bare[k] != v for k, v in asked(prompt).items() if k in bare)


def test_a_prompt_s_drawing_has_what_it_asks_for() -> None:
    """The labels of the list `mini` are its words, and what is drawn for it shows them."""
    for _, scene in subjects():
        cls = scene.instances[0].cls
        for prompt in prompts_of(cls):
            assert set(with_article(prompt.text, cls).split()) <= set(words())
            changed, _ = expectations(scene, prompt)
            assert changed.items() <= asked(prompt).items(), prompt.text
            assert changed or "hair" in prompt.text, prompt.text  # a bald head has no hair to be blue
            assert all(v in prompt.text for k, v in asked(prompt).items() if k not in ("steam", "fruits", "scarf"))


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
    by_text = {p.text: expectations(scene, p) for p in prompts_of("face")}
    changed, kept = by_text["{concept} wearing a red top hat in the jungle"]
    assert changed == {"background": "jungle", "hat": "top hat", "hat_color": "red"}
    assert {"class", "skin", "head", "eye_color"} <= kept.keys()
    changed, kept = by_text["{concept} wearing sunglasses on the beach"]
    assert changed == {"background": "beach", "glasses": "sunglasses"}
    assert "eye_color" not in kept
    changed, kept = by_text["a pencil sketch of {concept}"]
    assert changed == {"style": "pencil sketch"}
    assert {"skin", "hair_color"}.isdisjoint(kept)
    changed, kept = by_text["{concept} with blue hair in the desert"]
    assert changed.get("hair_color", "blue") == "blue"
    assert "hair_color" not in kept
    changed, _ = by_text["{concept} wearing a yellow beanie and a white scarf"]
    assert changed == {"hat": "beanie", "hat_color": "yellow", "scarf": "scarf", "scarf_color": "white"}


def test_the_training_picture_has_an_exact_mask(tmp_path: Path) -> None:
    for name, scene in subjects({"cat": 1, "cup": 1}):
        picture, mask = (Image.open(f) for f in write_training_picture(scene, tmp_path / name))
        assert picture.size == mask.size == (64, 64)
        assert 0.1 < np.asarray(mask).mean() / 255 < 0.7


def test_true_drawings_score_nearly_full_and_another_subject_does_not() -> None:
    judge, scenes = Judge.load(), dict(subjects({"face": 2, "cup": 1}))
    for name, scene in scenes.items():
        prompts = [p for p in prompts_of(scene.instances[0].cls) for _ in range(2)]
        means = score(
            judge, scene, gallery(judge, scene), list(zip(prompts, true_drawings(scene, prompts), strict=True))
        )
        assert means["background"] == 1
        assert means["kept"] > 0.9
        assert means["identity"] > 0.7, name
    prompts = list(prompts_of("face"))
    drawn = true_drawings(scenes["face1"], prompts)
    other = score(judge, scenes["face0"], gallery(judge, scenes["face0"]), list(zip(prompts, drawn, strict=True)))
    assert other["kept"] < 0.7
    assert other["top1"] < 0.2
    assert other["background"] == 1


def results_of(folder: Path) -> Path:
    """An evaluation of two rows on face0: one drew what was asked for, the other one gray picture."""
    scene, prompts = dict(subjects())["face0"], prompts_of("face")
    cache, samples = Cache(folder / "cache"), []
    for method in ("true", "gray"):
        for k, drawn in enumerate(true_drawings(scene, prompts)):
            key = f"{method}{k}"
            cache.save_picture(key, drawn if method == "true" else Image.new("RGB", (64, 64), "gray"))
            samples.append(Sample(method, "face0", k, 0, key))
    methods = [{"name": m, "label": m, "group": "Stage I"} for m in ("true", "gray")]
    concept = {"name": "face0", "class_word": "face", "prompts": [{"text": p.text} for p in prompts]}
    facts = {"cache": "cache", "base_model": "mini-sd", "sampling": {"steps": 2, "guidance_scale": 4.0}}
    Results("made up", facts, methods, [], [concept], samples).save(folder)
    return folder


def test_the_rows_of_an_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    folder = results_of(tmp_path)
    monkeypatch.setattr("sys.argv", ["compare", str(folder)])
    assert compare.main() == 0
    found = json.loads((folder / "compare.json").read_text())["summary"]["all"]
    assert list(found) == ["Stage I true", "Stage I gray", "drawn", "class word"]
    assert found["Stage I true"] == found["drawn"] != found["Stage I gray"]
    assert found["class word"]["background"][0] < found["drawn"]["background"][0]  # two steps of sampling
    assert "Stage I gray" in capsys.readouterr().out
    width, height = Image.open(folder / "compare.png").size
    assert (width, height) == (11 * 66 + 2, 4 * 66 + 2)  # the training picture and ten prompts; four rows


def test_rows_that_are_not_there(tmp_path: Path) -> None:
    folder = results_of(tmp_path)
    assert list(pictures_of(folder, Results.load(folder), ["gray"])) == ["Stage I gray"]
    with pytest.raises(InputError, match="has no rows grey; it has true, gray"):
        pictures_of(folder, Results.load(folder), ["grey"])


def test_means_and_standard_errors_by_hand() -> None:
    rows = {"face0": 0.4, "cat0": 0.8}
    summed = summary({"m": {k: {"kept": v} for k, v in rows.items()}})
    # mean 0.6; standard deviation of (0.4, 0.8) with n - 1 is 0.2828, over the root of 2 that is 0.2
    assert summed["all"]["m"] == {"instances": 2, "kept": [0.6, 0.2]}
    assert summed["faces"]["m"] == {"instances": 1, "kept": [0.4, 0.0]}
    assert "0.600 ± 0.200" in table(summed)
