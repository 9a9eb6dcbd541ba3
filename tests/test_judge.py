"""The judge's parts by hand, and the committed judge on drawn pictures that it never saw."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from testbed.judge import ASSET, Judge, Network, to_batch
from testbed.judge_training import (
    FIRST_INSTANCE,
    auc,
    augment,
    contrastive,
    held_out_jobs,
    identity_scenes,
    instance_jobs,
    measure_heads,
    scene_of,
)  # fmt: skip
from testbed.labels import HEADS
from testbed.world.features import CLASSES
from testbed.world.scene import draw, held_out


def test_contrastive_loss_by_hand() -> None:
    # Two owners, two pictures each, on two orthogonal axes. Each row has one positive (cosine 1) and two
    # negatives (cosine 0), so with temperature 0.1 the loss is -log(e^10 / (e^10 + 2)).
    z = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 3.0]])
    loss = contrastive(z, torch.tensor([0, 0, 1, 1]))
    assert float(loss) == pytest.approx(math.log1p(2 * math.exp(-10)), abs=1e-6)


def test_auc_by_hand() -> None:
    # pairs: 3 > 1, 3 > 2, 2 > 1 and 2 = 2, a tie that counts half: 3.5 of 4
    assert auc(torch.tensor([3.0, 2.0]), torch.tensor([1.0, 2.0])) == pytest.approx(3.5 / 4)


def test_augmentation_is_slight_and_a_function_of_the_seed() -> None:
    x = torch.zeros(64, 3, 64, 64)
    one, two = (augment(x, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one, two)
    assert 0 < float(one.abs().mean()) < 0.1


def test_saved_in_half_precision_and_read_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    judge = Judge(Network())
    judge.save(tmp_path / "judge.safetensors")
    again = Judge.load(tmp_path / "judge.safetensors")
    for name, value in judge.network.state_dict().items():
        assert torch.equal(value.half().float(), again.network.state_dict()[name])


def test_any_size_and_kind_of_picture_becomes_the_same_batch() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    image = Image.fromarray(pixels)
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1
    assert torch.equal(to_batch([image]), to_batch(tensor))
    assert to_batch([image.resize((200, 100)), image]).shape == (2, 3, 64, 64)
    assert to_batch(torch.zeros(2, 3, 128, 128)).shape == (2, 3, 64, 64)


def test_training_sees_every_kind_of_combination_and_none_of_the_pictures_that_measure() -> None:
    scenes = [scene_of(j) for seed in range(FIRST_INSTANCE, FIRST_INSTANCE + 20) for j in instance_jobs(seed, 6)]
    assert 0 < sum(held_out(s) for s in scenes) < len(scenes)
    measured = [scene_of(j) for j, _ in zip(held_out_jobs(), range(200), strict=False)]
    assert not {repr(s.instances) for s in scenes} & {repr(s.instances) for s in measured}


def test_the_committed_judge_is_small() -> None:
    assert ASSET.stat().st_size < 3_000_000


def test_the_committed_judge_reads_unseen_drawn_pictures() -> None:
    measured = measure_heads(Judge.load(), 400)
    assert {h for h in measured if "|" not in h} == set(HEADS)
    plenty = {h: m["accuracy"] for h, m in measured.items() if m["pictures"] >= 100 and "|" not in h}
    assert {h: a for h, a in plenty.items() if a <= 0.94} == {}
    assert np.mean(list(plenty.values())) > 0.97


def test_a_reading_names_the_subject_and_what_it_wears() -> None:
    scenes = [scene_of(j) for j, _ in zip(held_out_jobs(), range(8), strict=False)]
    readings = Judge.load().read([draw(s, masks=False).image for s in scenes])
    assert sum(r.cls == s.instances[0].cls for r, s in zip(readings, scenes, strict=True)) >= 7
    for r in readings:
        assert r["background"].probability <= 1
        assert set(r.present) == set(CLASSES)
    asked = Judge.load().read(torch.zeros(1, 3, 64, 64), classes=["face"])[0]
    assert "nose" in asked
    assert "fur" not in asked


def test_pictures_of_one_instance_lie_closer_than_others() -> None:
    judge = Judge.load()
    scenes = identity_scenes("face", 10, 2, "photo")
    pictures = [draw(s, masks=False).image for s in scenes]
    cosine = judge.identity(pictures, pictures[0])
    assert float(cosine[0]) == pytest.approx(1, abs=1e-5)
    assert float(cosine[1]) > float(cosine[2:].mean()) + 0.3
