"""Which words belong to which part of a drawn scene, and the loss on what cross-attention makes of it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTokenizer

from testbed.scenes_binding import NOBODY, Watched, bind, bindings_of, misbound, owners_of
from testbed.scenes_data import MOST, training_scene_seeds
from testbed.world.scene_captions import SceneCaption, scene_caption
from testbed.world.scenes import scene_from_seed

MINI_SD = Path(__file__).parent.parent / "singleinsert" / "assets" / "mini-sd"


def test_each_phrase_has_its_own_words_and_names_its_subjects() -> None:
    tokenizer = CLIPTokenizer.from_pretrained(MINI_SD / "tokenizer")
    for seed in training_scene_seeds(40):
        scene = scene_from_seed(seed)
        caption = scene_caption(scene, 0, dense=True)
        slots, subjects = bind(caption, [])
        ids = tokenizer(caption.text, padding="max_length").input_ids
        for k, instance in enumerate(scene.instances):
            if caption.text:
                words = tokenizer.decode([i for i, slot in zip(ids, slots, strict=True) if slot == subjects[k]])
                assert instance.cls in words
    assert (bind(SceneCaption("", {}), [])[0] == NOBODY).all()


def test_a_span_that_became_one_slot_moves_what_follows() -> None:
    caption = SceneCaption("", {}, spans=((0, 6), (7, 9)), subjects=((1,), (0,)))
    slots, subjects = bind(caption, [(3, 6)])  # with the prompt's start: slots 1 to 6 are the first phrase's
    assert slots[:9].tolist() == [-1, 0, 0, 0, 0, -1, 1, 1, -1] and len(slots) == 48
    assert subjects.tolist() == [1, 0, -1, -1]


def test_bindings_and_owners_are_kept(tmp_path: Path) -> None:
    seeds = training_scene_seeds(3)
    bound, owners = bindings_of(seeds, tmp_path, each=2, dense=False), owners_of(seeds, tmp_path)
    assert bound.phrases.shape == (6, 48) and bound.subjects.shape == (6, MOST) and owners.shape == (3, 24, 24)
    again = bindings_of(seeds, tmp_path, each=2, dense=False)
    assert (again.phrases == bound.phrases).all()
    for seed, owner in zip(seeds, owners, strict=True):
        assert set(np.unique(owner)) - {NOBODY} == set(range(len(scene_from_seed(seed).instances)))


def test_the_loss_is_the_cross_entropy_of_the_phrases_shares() -> None:
    """Subject 0's words are slots 1 and 2 (phrase 1), subject 1's slot 3 (phrase 0). A pixel of subject 0 that gives
    its own words 0.3 + 0.1 and the other's 0.1 costs -log(0.4 / 0.5); what nobody's pixels look at is free."""
    phrases = torch.tensor([[NOBODY, 1, 1, 0]])
    subjects = torch.tensor([[1, 0, NOBODY, NOBODY]])
    owner = torch.full((1, 24, 24), NOBODY)
    owner[0, :4] = 0
    seen = torch.tensor([0.5, 0.3, 0.1, 0.1]).expand(1, 576, 4).clone()
    seen[0, 96:] = torch.tensor([0.0, 0.0, 0.0, 1.0])  # below the subject
    assert math.isclose(float(misbound([seen], owner, phrases, subjects)), -math.log(0.4 / 0.5), rel_tol=1e-4)
    owner[0, 4:] = 1  # whose pixels look at nothing but their own words
    found = float(misbound([seen], owner, phrases, subjects))
    assert math.isclose(found, -math.log(0.4 / 0.5) * 96 / 576, rel_tol=1e-4)


def test_watching_changes_no_prediction() -> None:
    unet = UNet2DConditionModel.from_pretrained(MINI_SD / "unet", torch_dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    x, hidden = torch.randn(2, 4, 24, 24, generator=generator), torch.randn(2, 48, 256, generator=generator)
    t = torch.tensor([10, 500])
    with torch.no_grad():
        before = unet(x, t, hidden).sample
        out, maps = Watched(unet)(x, t, hidden)
    assert torch.allclose(before, out, atol=1e-5)
    assert {m.shape for m in maps} == {(2, 576, 48), (2, 144, 48)} and len(maps) == 6
    assert all(torch.allclose(m.sum(-1), torch.ones(m.shape[:2])) for m in maps)
