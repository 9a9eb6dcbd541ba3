"""The drawn world is a function of its seeds, its masks are exact, its captions say what is drawn."""

from __future__ import annotations

import numpy as np
import pytest

from testbed.dataset import held_out_scenes, training_seeds
from testbed.tokenizer import build_tokenizer, words
from testbed.world.captions import caption_and_said, full_caption
from testbed.world.features import BACKGROUNDS, CLASSES, EDITS
from testbed.world.scene import Instance, Scene, draw, draw_edits, held_out


def test_a_scene_is_a_function_of_its_seed() -> None:
    a, b = draw(Scene.from_seed(5)), draw(Scene.from_seed(5))
    assert a.image.tobytes() == b.image.tobytes()
    assert all(a.masks[k].tobytes() == b.masks[k].tobytes() for k in a.masks)
    assert draw(Scene.from_seed(6)).image.tobytes() != a.image.tobytes()


@pytest.mark.parametrize("cls", CLASSES)
def test_the_mask_covers_exactly_what_the_subject_paints(cls: str) -> None:
    """The same layout with another instance differs inside the union of both masks and nowhere else."""
    first, second = Instance.from_seed(1, cls), Instance.from_seed(2, cls)
    none = {k: v[0] for k, v in EDITS.items()}
    a, b = (draw(Scene((i,), (none,), "city", seed=9)) for i in (first, second))
    union = np.maximum(np.asarray(a.masks["subject"]), np.asarray(b.masks["subject"]))
    differs = (np.asarray(a.image) != np.asarray(b.image)).any(-1)
    assert differs.any()
    assert not differs[union == 0].any()


def test_parts_lie_inside_the_subject() -> None:
    edits = {**{k: v[0] for k, v in EDITS.items()}, "hat": "cap", "glasses": "sunglasses", "scarf": "red"}
    masks = draw(Scene((Instance.from_seed(3, "face"),), (edits,), "beach", seed=1)).masks
    subject = np.asarray(masks["subject"]).astype(int)
    for part in ("hat", "glasses", "scarf"):
        inside = np.asarray(masks[part]).astype(int)
        assert inside.sum() > 255 * 20, part
        assert (inside <= subject).all(), part


def test_two_subjects_have_disjoint_masks() -> None:
    scene = next(s for s in map(Scene.from_seed, range(500)) if len(s.instances) == 2)
    masks = draw(scene).masks
    both = np.asarray(masks["subject"]).astype(int) + np.asarray(masks["second"]).astype(int)
    assert both.max() <= 256  # rounding of the area averages


def test_captions_say_only_what_is_drawn() -> None:
    empty = 0
    for seed in range(400):
        scene = Scene.from_seed(seed)
        text, said = caption_and_said(scene, 0)
        empty += text == ""
        if (0, "background") in said:
            assert said[0, "background"] == scene.background
        for (k, name), value in said.items():
            if name in scene.edits[k]:
                assert scene.edits[k][name] == value
                assert value.split()[0] in text
            elif name in scene.instances[k].features:
                assert scene.instances[k].features[name] == value
    assert 20 <= empty <= 60  # one in ten


def test_held_out_scenes_are_not_drawn_for_training() -> None:
    assert not any(held_out(Scene.from_seed(s)) for s in training_seeds(200))
    scenes = list(held_out_scenes(20))
    assert all(held_out(s) and len(s.instances) == 1 for s in scenes)


def test_edits_are_absent_two_times_in_three() -> None:
    import random

    rng = random.Random(0)
    hats = sum(draw_edits("face", rng)["hat"] != "none" for _ in range(1000))
    assert 290 <= hats <= 390


def test_every_word_of_the_world_is_one_token(tmp_path) -> None:
    tokenizer = build_tokenizer(tmp_path)
    assert [w for w in words() if len(tokenizer(w).input_ids) != 3] == []
    unknown = {
        w
        for seed in range(300)
        for w in full_caption(Scene.from_seed(seed)).replace(",", " ").split()
        if len(tokenizer(w).input_ids) != 3
    }
    assert unknown == set()
    assert set(" ".join(BACKGROUNDS).split()) <= set(words())
