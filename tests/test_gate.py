"""The gate: what it asks, how it counts, and that a perfect generator passes it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from testbed.dataset import held_out_scenes
from testbed.docs import MAX_BYTES, fill_block, save_picture
from testbed.gate import GATE_START, generate, load_pipeline, passed, question, score, table
from testbed.judge import Judge
from testbed.tokenizer import MAX_LENGTH, words
from testbed.world.scene import draw

WORDED = ("class", "background", "hat", "hat_color", "glasses", "scarf_color", "hair_color", "skin", "fur")


def test_only_what_the_caption_says_is_named() -> None:
    for scene in held_out_scenes(150, GATE_START):
        q = question(scene)
        assert {"class", "background", "style"} <= q.named.keys()
        assert not {"none", "neutral"} & set(q.named.values())
        for name in WORDED:
            assert name not in q.named or q.named[name] in q.caption
        assert len(q.caption.replace(",", " ,").split()) + 2 <= MAX_LENGTH
        assert set(q.caption.replace(",", "").split()) <= set(words())


def test_pictures_drawn_for_the_captions_pass_the_gate() -> None:
    questions = [question(s) for s in held_out_scenes(200, GATE_START)]
    result = score(Judge.load(), questions, [draw(q.scene, masks=False).image for q in questions])
    short = {name for name, entry in result["attributes"].items() if not entry["passed"]}
    assert not short
    swapped = score(Judge.load(), questions, [draw(q.scene, masks=False).image for q in questions[1:] + questions[:1]])
    assert not passed(swapped)
    assert swapped["attributes"]["background"]["share"] < 0.4
    text = table(swapped | {"count": 200, "steps": 25, "guidance_scale": 5.0})
    assert "not passed" in text
    assert "| background |" in text


def test_a_picture_depends_on_its_own_seed_alone(tiny_sd: Path) -> None:
    pipe = load_pipeline(tiny_sd)
    both = generate(pipe, ["a face", "a face"], 3.0, steps=2, seed=5)
    second = generate(pipe, ["a face"], 3.0, steps=2, seed=6)
    assert np.abs(np.asarray(both[1], int) - np.asarray(second[0], int)).max() <= 1
    assert np.asarray(both[0]).tobytes() != np.asarray(both[1]).tobytes()


def test_a_block_of_a_page_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- gate -->\nold\n<!-- /gate -->\nz\n")
    fill_block(page, "gate", "new")
    assert page.read_text() == "a\n<!-- gate -->\nnew\n<!-- /gate -->\nz\n"
    with pytest.raises(ValueError, match="expected one"):
        fill_block(page, "judge", "new")


def test_saved_pictures_are_small(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 500, 3), np.uint8)
    save_picture(Image.fromarray(noise), tmp_path / "noise.png")
    assert (tmp_path / "noise.png").stat().st_size <= MAX_BYTES
