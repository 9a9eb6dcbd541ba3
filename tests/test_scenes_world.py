"""Scenes of several subjects: a function of the seed, exact masks of what shows, captions that keep features by their
subject."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTokenizer

from testbed.labels import HEADS, labels
from testbed.reader import build_reader
from testbed.scenes_binding import Bindings
from testbed.scenes_data import MOST, Conditions, Pictures, held_out_groups, merges_in, named_of, training_scene_seeds
from testbed.scenes_gate import MODEL, question
from testbed.scenes_train import Bound, Plan, choose_subjects, export, train_scenes, windows
from testbed.world.features import CLASSES, EDITS
from testbed.world.scene import Instance, Scene, held_out
from testbed.world.scene_captions import ROOM, SceneCaption, full_scene_caption, scene_caption, tokens
from testbed.world.scenes import SCENE_SIZE, Place, alone, draw_scene, layout, scene_from_seed, scene_with

MINI_SD = MODEL.with_name("mini-sd")
PLAIN = {k: v[0] for k, v in EDITS.items()}


def whole(scene: Scene, nth: int) -> np.ndarray:
    return np.asarray(draw_scene(scene).masks[nth].whole).astype(int)


def test_a_scene_is_a_function_of_its_seed() -> None:
    a, b = draw_scene(scene_from_seed(5)), draw_scene(scene_from_seed(5))
    assert a.image.tobytes() == b.image.tobytes() and a.places == b.places
    assert [m.whole.tobytes() for m in a.masks] == [m.whole.tobytes() for m in b.masks]
    assert draw_scene(scene_from_seed(6)).image.tobytes() != a.image.tobytes()
    assert a.image.size == (SCENE_SIZE, SCENE_SIZE)


def test_given_instances_are_in_the_scene() -> None:
    pair = [Instance.from_seed(1, "cat"), Instance.from_seed(2, "cup")]
    scene = scene_with(pair, 4)
    assert list(scene.instances) == pair and scene == scene_with(pair, 4) != scene_with(pair, 5)


@pytest.mark.parametrize("count", (1, 2, 3, 4))
def test_every_subject_shows_and_lies_in_the_picture(count: int) -> None:
    for seed in range(40):
        scene = scene_from_seed(seed, count)
        drawn = draw_scene(scene)
        assert len(drawn.places) == len(drawn.masks) == count
        for i, place, masks in zip(scene.instances, drawn.places, drawn.masks, strict=True):
            left, top, right, bottom = place.box(i.cls)
            assert min(left, top) >= 0.9 and max(right, bottom) <= SCENE_SIZE - 0.9
            assert np.asarray(masks.whole).astype(int).sum() > 255 * 90  # pixels, of 9216


@pytest.mark.parametrize("nth", (0, 1, 2))
def test_the_mask_covers_exactly_what_the_subject_paints(nth: int) -> None:
    """The same scene with another instance in one place differs inside both masks of that place, and nowhere else."""
    classes = ("car", "dog", "cup")
    places = layout(classes, 3)
    scenes = []
    for k in (1, 2):
        who = [Instance.from_seed(k if n == nth else 9, c) for n, c in enumerate(classes)]
        scenes.append(Scene(tuple(who), (PLAIN,) * 3, "city", seed=3))
    a, b = (draw_scene(s, places=places) for s in scenes)
    union = np.maximum(np.asarray(a.masks[nth].whole), np.asarray(b.masks[nth].whole))
    differs = (np.asarray(a.image) != np.asarray(b.image)).any(-1)
    assert differs.any() and not differs[union == 0].any()


def test_masks_are_disjoint_and_the_later_subject_is_on_top() -> None:
    places = [Place(44, 48, 0.7), Place(56, 50, 0.7)]
    pair = (Instance.from_seed(1, "dog"), Instance.from_seed(2, "cat"))
    scene = Scene(pair, (PLAIN, PLAIN), "snow", seed=1)
    first, second = (np.asarray(m.whole).astype(int) for m in draw_scene(scene, places=places).masks)
    lone_first, lone_second = (
        np.asarray(draw_scene(alone(scene, k), places=[places[k]]).masks[0].whole).astype(int) for k in (0, 1)
    )
    assert (first + second).max() <= 256  # 255, and rounding of the area averages
    assert (second == lone_second).all()
    covered = (lone_first > 0) & (lone_second == 255)
    assert covered.sum() > 50 and (first[covered] == 0).all()


def test_parts_lie_inside_their_subject() -> None:
    worn = {**PLAIN, "hat": "cap", "glasses": "sunglasses", "scarf": "red"}
    pair = (Instance.from_seed(3, "face"), Instance.from_seed(4, "dog"))
    for masks in draw_scene(Scene(pair, (worn, worn), "beach", seed=1)).masks:
        for part in ("hat", "glasses", "scarf"):
            inside = np.asarray(masks.parts[part]).astype(int)
            assert inside.sum() > 255 * 8, part
            assert (inside <= np.asarray(masks.whole)).all(), part


def test_a_fifth_of_the_scenes_overlap_and_few_have_twins() -> None:
    scenes = [scene_from_seed(s, 3) for s in range(300)]
    twins = sum(len({i.cls for i in s.instances}) < 3 for s in scenes)
    assert 10 <= twins <= 45  # 8 percent of 300 are 24
    assert {i.cls for s in scenes for i in s.instances} == set(CLASSES)


def test_captions_fit_and_keep_each_feature_in_its_own_phrase() -> None:
    tokenizer = CLIPTokenizer.from_pretrained(MINI_SD / "tokenizer")
    named = 0
    for seed in range(300):
        scene = scene_from_seed(seed)
        caption = scene_caption(scene, 0, dense=True)
        pieces = tokenizer.tokenize(caption.text)
        assert len(pieces) == tokens(caption.text) <= ROOM
        if len({i.cls for i in scene.instances}) < len(scene.instances):
            continue
        words = [" ".join(p.removesuffix("</w>") for p in pieces[a:b]) for a, b in caption.spans]
        for (k, name), value in caption.said.items():
            if name in ("background", "style", "view"):
                continue
            own = next(w for w in words if scene.instances[k].cls in w.split())
            assert value.split()[0] in own, (caption.text, k, name)
            assert value == (scene.instances[k].features | scene.edits[k] | {"class": scene.instances[k].cls})[name]
            named += 1
    assert named > 1500


def test_one_caption_in_ten_is_empty_and_two_of_a_class_are_two() -> None:
    captions = [(s, scene_caption(scene_from_seed(s), 1)) for s in range(600)]
    assert 30 <= sum(c.text == "" for _, c in captions) <= 90
    plural = [(s, c) for s, c in captions if " two " in f" {c.text} "]
    assert plural
    for seed, caption in plural:
        cls = caption.text.split("two ")[1].split()[0].strip(",")[:-1]
        assert [i.cls for i in scene_from_seed(seed).instances].count(cls) == 2


def test_the_full_caption_names_the_features_asked_for() -> None:
    scene = scene_with([Instance.from_seed(1, "cat"), Instance.from_seed(2, "car")], 8)
    caption = full_scene_caption(scene, [["fur"], ["color", "shape"]])
    cat, car = (i.features for i in scene.instances)
    assert {(0, "fur"), (1, "color"), (1, "shape"), (0, "background")} <= set(caption.said)
    assert caption.text.index(f"{cat['fur']} fur") < caption.text.index(" and ") or "wearing" in caption.text
    assert car["color"] in caption.text


def test_held_out_scenes_are_not_drawn_for_training() -> None:
    assert not any(held_out(scene_from_seed(s)) for s in training_scene_seeds(150))
    for count in (2, 4):
        for scene in held_out_groups(10, count):
            assert held_out(scene) and len({i.cls for i in scene.instances}) == count


def test_the_gate_asks_each_subject_for_what_its_caption_names() -> None:
    for scene in held_out_groups(20, 2, start=30_000_000):
        asked = question(scene)
        for k, named in enumerate(asked.named):
            seen = labels(alone(scene, k))
            assert len(named) <= len(seen) and not set(named) & set(asked.unnamed[k])


def test_what_a_caption_names_of_each_subject() -> None:
    shown = np.zeros((MOST, len(HEADS)), np.int8)
    named = named_of({(1, "fur"): "gray", (0, "class"): "cup"}, shown)
    heads = list(HEADS)
    assert named[1, heads.index("cat.fur")] == 0 and named[0, heads.index("cat.fur")] == -1
    assert named[0, heads.index("class")] == 0 and named[1, heads.index("class")] == -1


def test_merged_words_are_of_one_phrase() -> None:
    caption = SceneCaption("a b c d e and a g h i", {}, ((0, 5), (6, 10)))
    for seed in range(50):
        merges = merges_in([caption] * 4, np.random.default_rng(seed))
        for row, first, last in merges:
            assert 0 <= row < 4 and 2 <= last - first <= 5
            assert 2 <= first < last <= 6 or 8 <= first < last <= 11  # tokens of a phrase less its article, from 1
        for row in range(4):
            starts = [first for r, first, _ in merges if r == row]
            assert starts == sorted(starts, reverse=True)


def test_a_window_holds_its_subject_in_the_middle() -> None:
    x = torch.zeros(1, 4, 24, 24)
    x[:, :, 5:7, 17:19] = 1.0  # its middle is at (18, 6) latent pixels, (72, 24) in the picture
    got = windows(x, torch.tensor([[[72.0, 24.0, 0.7], [24.0, 72.0, 0.7]]]))
    assert got.shape == (2, 4, 16, 16)
    assert got[0, 0, 7:9, 7:9].min() > 0.9 and got[0, 0, :4].abs().max() == 0 and got[1].abs().max() == 0


def test_chosen_subjects_are_there() -> None:
    places = np.ones((6, 4, 3), np.float32)
    places[:3, 2:, 2] = 0
    chosen = choose_subjects(places, np.random.default_rng(0))
    assert chosen.shape == (6, 2) and chosen[:3].max() == 1
    assert (chosen[:, 0] != chosen[:, 1]).all()


def test_the_unet_is_trained_on_scenes_and_exported_with_the_rest_of_mini_sd(tmp_path: Path) -> None:
    """Four steps (the average takes every fourth) of the real loop on noise: the weights move, the folder is whole."""
    rng = np.random.default_rng(1)
    start = UNet2DConditionModel.from_pretrained(MINI_SD / "unet")
    shown = np.zeros((12, MOST, len(HEADS)), np.int8)
    places = np.full((12, MOST, 3), (48, 48, 0.7), np.float32)
    data = Pictures(np.zeros((12, 1)), np.full((12, 24, 24), 128, np.uint8), places, shown)
    captions = Conditions(rng.standard_normal((12, 48, 256)).astype(np.float16), shown)
    latents = rng.standard_normal((12, 4, 24, 24)).astype(np.float16)
    frozen = build_reader().to(torch.bfloat16).eval().requires_grad_(False)
    slots = Bindings(np.ones((12, 48), np.int8), np.ones((12, MOST), np.int8))
    bound = Bound(np.zeros((12, 24, 24), np.int8), slots, slots)
    plan = Plan(steps=4, batch=3, rate=1e-3, unread=0.1, misbound=0.1)
    model = train_scenes(start, latents, 1.0, data, captions, captions, bound, frozen, tmp_path, plan, lambda *_: None)
    assert model.config.sample_size == 24
    assert not torch.equal(model.conv_in.weight, start.conv_in.weight)
    export(model, MINI_SD, tmp_path / "out")
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "out", safety_checker=None, requires_safety_checker=False)
    assert pipe.unet.config.sample_size * 4 == SCENE_SIZE
    same = "text_encoder/model.safetensors"
    assert (tmp_path / "out" / same).read_bytes() == (MINI_SD / same).read_bytes()
