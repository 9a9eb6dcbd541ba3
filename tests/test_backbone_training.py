"""What the miniature backbones are trained on and by; their measures."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from singleinsert.metrics.regions import FILL, only
from testbed import backbone_scores, backbones
from testbed.labels import HEADS
from testbed.world.scene import Scene


def world(pictures: np.ndarray, masks: np.ndarray) -> backbones.World:
    empty = np.zeros(0, np.int64)
    labels = np.ones((len(pictures), len(HEADS)), np.int64)
    return backbones.World(pictures, masks, labels, empty, empty, empty)


def test_regions_are_greyed_as_the_metrics_do_it():
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    masks = np.zeros((3, 64, 64), bool)
    masks[:, 20:40, 10:50] = True
    regions = np.array([backbones.WHOLE, backbones.FOREGROUND, backbones.BACKGROUND])
    found = backbones.masked(world(pictures, masks), np.arange(3), regions, torch.Generator().manual_seed(0))
    grey = torch.tensor(FILL / 127.5 - 1)
    for k, region in ((1, "foreground"), (2, "background")):
        shown = np.asarray(only(Image.fromarray(pictures[k]), masks[k].astype(np.float32), region))
        hidden = torch.from_numpy(masks[k] if region == "background" else ~masks[k])
        assert (shown[hidden.numpy()] == FILL).all() and (found[k][:, hidden] == grey).all()
        assert not (found[k][:, ~hidden] == grey).all()
    assert not (found[0] == grey).any(0).all()


def test_noise_shows_nothing_and_is_noise():
    data = world(np.zeros((2, 64, 64, 3), np.uint8), np.zeros((2, 64, 64), bool))
    regions = np.array([backbones.NOISE, backbones.WHOLE])
    found = backbones.masked(data, np.arange(2), regions, torch.Generator().manual_seed(0))
    assert found[0].std() > 0.4 > 0.2 > found[1].std()
    labels = backbones.shown_labels(data, np.arange(2), regions)
    assert (labels[0] == -1).all() and (labels[1] == 1).all()


def test_a_region_is_asked_for_what_it_shows():
    data = world(np.zeros((2, 64, 64, 3), np.uint8), np.zeros((2, 64, 64), bool))
    subject, place = backbones.shown_labels(data, np.arange(2), np.array([backbones.FOREGROUND, backbones.BACKGROUND]))
    asked = [{name for name, value in zip(HEADS, row, strict=True) if value >= 0} for row in (subject, place)]
    assert asked[0] == set(HEADS) - {"background"} and asked[1] == {"background", "style"}


def test_captions_of_regions_say_no_more_than_the_region_shows():
    scene = Scene.from_seed(2)  # a face in the snow
    *whole, subject, place, nothing = backbones.captions(scene)
    assert len(whole) == backbones.CAPTIONS and all(text for text, _ in whole)
    assert "snow" not in subject[0] and "face" in subject[0]
    assert place[0] == "in the snow" and nothing[0] == "" and not any(nothing[1])
    assert sum(map(bool, place[1])) == 1


def test_contrast_by_hand():
    """Two orthogonal pairs, scale log 2: logits 2 and 0, so that each row's loss is log(1 + e^-2)."""
    images = texts = torch.eye(2)
    said, scale = torch.tensor([[1], [2]]), torch.tensor(math.log(2))
    expected = math.log(1 + math.exp(-2))
    assert backbones.contrast(images, texts, scale, said).item() == pytest.approx(expected, rel=1e-5)
    # captions that say the same: both are right, each with a half; -(log p_1 + log p_2) / 2 = expected + 1
    same = backbones.contrast(images, texts, scale, torch.tensor([[1], [1]]))
    assert same.item() == pytest.approx(expected + 1, rel=1e-5)


def test_labels_that_do_not_show_are_no_loss():
    logits = torch.zeros(2, sum(backbones.SIZES))
    labels = torch.full((2, len(HEADS)), -1)
    labels[0, 0], labels[1, 1] = 2, 3
    # uniform over the values of the first and of the second head
    expected = (math.log(backbones.SIZES[0]) + math.log(backbones.SIZES[1])) / 2
    assert backbones.label_loss(logits, labels).item() == pytest.approx(expected, rel=1e-5)


def test_top1_and_instances_by_hand(monkeypatch):
    scores = torch.tensor([[0.9, 0.1], [0.8, 0.3]])
    assert backbone_scores.top1(scores, torch.eye(2, dtype=torch.bool)) == 0.5
    monkeypatch.setattr(backbone_scores, "INSTANCES", 2)
    monkeypatch.setattr(backbone_scores, "SCENES", 2)
    z = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    assert backbone_scores.instances(z) == {"auc": 1.0, "top1": 1.0, "cosine_same": 1.0, "cosine_other": 0.0}
    # the second instance's other picture looks like the first instance: same pairs 1, 0; others 0, 1 (of 2 x 2)
    z[3] = torch.tensor([1.0, 0])
    assert backbone_scores.instances(z)["auc"] == pytest.approx(0.5) and backbone_scores.instances(z)["top1"] == 0.5


def test_changes_grow_from_near_to_far():
    scene = Scene.from_seed(10_000_000)
    image = Image.new("RGB", (64, 64), (90, 120, 150))
    assert [change(scene, image).size for change in backbone_scores.changes().values()] == [(64, 64)] * 6
