"""The judge of cut-outs, the segmenter of scenes and the gate's scoring."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from testbed.judge import Answer, Judge, Reading
from testbed.labels import HEADS
from testbed.scenes_data import held_out_groups
from testbed.scenes_gate import Question, SceneReading, question, read_scenes, score
from testbed.scenes_judge import GREY, SCENES_ASSET, cut_labels, cut_out, group_scenes, shown_share, whole_labels
from testbed.scenes_segmenter import FOLDER, SceneSegmenter, exact_masks, pieces
from testbed.segmenter import iou
from testbed.world.features import EDITS
from testbed.world.scene import Instance, Scene
from testbed.world.scenes import Place, draw_scene


@pytest.fixture(scope="module")
def judge() -> Judge:
    return Judge.load(SCENES_ASSET)


@pytest.fixture(scope="module")
def segmenter() -> SceneSegmenter:
    return SceneSegmenter(FOLDER, threshold=0.0)


def disc(x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:96, :96]
    return (columns - x) ** 2 + (rows - y) ** 2 < radius**2


def test_a_cut_out_is_centred_and_of_one_size_wherever_the_subject_stands() -> None:
    for x, y, radius in ((30, 50, 12), (90, 8, 20)):  # the second leaves the picture
        mask = Image.fromarray(disc(x, y, radius).astype(np.uint8) * 255)
        cut = np.asarray(cut_out(Image.new("RGB", (96, 96), (250, 0, 0)), mask))
        rows, columns = np.nonzero(cut[..., 0] > 189)  # half way from grey to red
        assert cut.shape == (64, 64, 3)
        longer = max(np.ptp(rows), np.ptp(columns)) + 1
        assert 56 <= longer <= 60
        assert abs((columns.min() + columns.max()) / 2 - 31.5) <= 1.5
        assert (cut[0, 0] == GREY).all()


def test_nothing_cut_out_is_grey() -> None:
    cut = cut_out(Image.new("RGB", (96, 96), "red"), Image.new("L", (96, 96)))
    assert (np.asarray(cut) == GREY).all()


def test_of_a_covered_subject_only_the_class_is_asked() -> None:
    plain = {k: v[0] for k, v in EDITS.items()}
    pair = Scene((Instance.from_seed(1, "dog"), Instance.from_seed(2, "car")), (plain, plain), "snow", seed=1)
    for dx, covered in ((0, True), (45, False)):
        drawn = draw_scene(pair, places=[Place(30, 40, 0.7), Place(30 + dx, 48, 0.7)])
        assert (shown_share(pair, drawn, 0) < 0.9) == covered and shown_share(pair, drawn, 1) == 1.0
        heads = dict(zip(HEADS, cut_labels(pair, drawn, 0), strict=False))
        assert (heads["dog.fur"] == -1) == covered and heads["class"] >= 0 and heads["background"] == -1
    whole = dict(zip(HEADS, whole_labels(pair), strict=False))
    assert whole["background"] >= 0 and whole["class"] == -1
    assert sum(whole_labels(pair)[len(HEADS) :]) == 2


def test_scenes_of_a_group_show_its_instances() -> None:
    for scene, who in group_scenes(3):
        assert len(scene.instances) == len(who) and len(set(who)) == len(who)
    first, again = group_scenes(3), group_scenes(3)
    assert first == again != group_scenes(4)


def test_the_judge_reads_every_subject_of_drawn_scenes(judge: Judge) -> None:
    right, asked = 0, 0
    for count in (2, 3, 4):
        for scene in held_out_groups(8, count, start=40_000_000):
            drawn = draw_scene(scene)
            heads, _, _ = judge.outputs([cut_out(drawn.image, m.whole) for m in drawn.masks])
            for nth in range(count):
                for k, value in enumerate(cut_labels(scene, drawn, nth)[: len(HEADS)]):
                    if value >= 0:
                        right += int(heads[k][nth].argmax()) == value
                        asked += 1
    assert asked > 400 and right / asked > 0.95


def test_the_judge_knows_an_instance_again(judge: Judge) -> None:
    same, other = [], []
    for group in range(2_000_000, 2_000_006):
        cuts, owner = [], []
        for scene, who in group_scenes(group):
            drawn = draw_scene(scene)
            cuts += [cut_out(drawn.image, m.whole) for m in drawn.masks]
            owner += who
        cosine = judge.embed(cuts) @ judge.embed(cuts).T
        is_same = torch.tensor(owner)[:, None] == torch.tensor(owner)
        same.append(cosine[is_same & ~torch.eye(len(owner), dtype=torch.bool)])
        other.append(cosine[~is_same])
    assert torch.cat(same).mean() > torch.cat(other).mean() + 0.4


def test_pieces_are_subjects() -> None:
    apart = disc(25, 30, 12) | disc(70, 60, 14)
    touching = disc(36, 48, 12) | disc(60, 48, 12)
    assert [len(pieces(m)) for m in (np.zeros((96, 96), bool), disc(48, 48, 20), apart, touching)] == [0, 1, 2, 2]
    larger, smaller = pieces(apart)
    assert iou(larger, disc(70, 60, 14)) == iou(smaller, disc(25, 30, 12)) == 1.0
    halves = pieces(touching)
    assert not (halves[0] & halves[1]).any() and (halves[0] | halves[1] == touching).all()
    speck = disc(48, 48, 20) | disc(5, 5, 3)
    assert len(pieces(speck)) == 1


def test_the_segmenter_finds_each_subject_of_drawn_scenes(segmenter: SceneSegmenter) -> None:
    scores, counted = [], []
    for scene in held_out_groups(10, 3, start=40_000_000):
        drawn = draw_scene(scene)
        exact = exact_masks(scene, drawn)
        for i in scene.instances:
            found = segmenter.find(drawn.image, i.cls)
            counted.append(len(found) == 1)
            scores.append(iou(found[0].mask, exact[i.cls]) if found else 0.0)
    assert np.mean(scores) > 0.85 and np.mean(counted) > 0.85


def test_the_gate_passes_what_is_drawn_and_fails_a_swap(judge: Judge, segmenter: SceneSegmenter) -> None:
    """Drawn scenes obey their captions; the same pictures under each other's captions do not."""
    asked = [question(s) for n in (1, 2, 3, 4) for s in held_out_groups(5, n, start=40_000_000)]
    images = [draw_scene(q.scene).image for q in asked]
    classes = [[i.cls for i in q.scene.instances] for q in asked]
    rows = score(asked, read_scenes(judge, segmenter, images, classes))["rows"]
    assert rows["background"]["share"] >= 0.95 and rows["feature"]["share"] > 0.85
    assert np.mean([rows[f"all there, {n} subjects"]["share"] for n in (1, 2, 3, 4)]) > 0.85
    swapped = score(asked, read_scenes(judge, segmenter, images[::-1], classes))["rows"]
    assert swapped["feature"]["share"] < 0.5 and swapped["background"]["share"] < 0.6


def test_a_feature_of_an_absent_subject_is_wrong() -> None:
    scene = Scene((Instance.from_seed(1, "cat"), Instance.from_seed(2, "cup")), ({}, {}), "snow", seed=1)
    asked = Question(scene, "a cat and a cup", ({"fur": "gray"}, {"color": "red"}), ((), ("hat",)))
    cat = Reading("cat", {"fur": Answer("gray", 1.0)}, {})
    whole = Reading("cat", {"background": Answer("snow", 1.0), "style": Answer("photo", 1.0)}, {})
    rows = score([asked], [SceneReading((cat, None), whole)])["rows"]
    assert rows["feature"] == {"share": 0.5, "of": 2}
    assert rows["feature of a subject that is there"] == {"share": 1.0, "of": 1}
    assert rows["all there, 2 subjects"]["share"] == 0.0 and rows["subject: cat"]["share"] == 1.0
