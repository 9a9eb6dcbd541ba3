"""Break-A-Scene's set from a small COCO file made by hand; outlines against pycocotools' own results."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from singleinsert.batch.jobs import read_jobs
from singleinsert.evaluate.__main__ import main
from singleinsert.evaluate.coco import choose, decompress, find_scenes, middle_square, segment_mask

TEXT = "g;7o04M2N2N2O0O2N2O000O2O000O2O00000000000000000000000000000001N10001N10001N2N101N2N2N3LZO2f0000000000000000"
"""pycocotools 2.0.11's text of the mask below."""


def drawn() -> np.ndarray:
    """An ellipse and a corner, 40 x 60."""
    y, x = np.mgrid[:40, :60]
    return (((x - 30) / 22) ** 2 + ((y - 18) / 13) ** 2 < 1) | ((x > 50) & (y > 30))


def runs_of(mask: np.ndarray) -> list[int]:
    flat = mask.T.ravel()
    edges = [0, *(np.flatnonzero(flat[1:] != flat[:-1]) + 1), flat.size]
    runs = [int(b - a) for a, b in itertools.pairwise(edges)]
    return [0, *runs] if flat[0] else runs


def test_run_lengths():
    mask = drawn()
    assert np.array_equal(segment_mask({"counts": TEXT, "size": [40, 60]}, 60, 40), mask)
    assert decompress(TEXT) == runs_of(mask)
    assert np.array_equal(segment_mask({"counts": runs_of(~mask), "size": [40, 60]}, 60, 40), ~mask)


def test_polygons():
    """pycocotools has 1064 pixels of this one, of area 1061.2; ours differ in eight of its edge."""
    polygon = [10.2, 5.5, 48.7, 8.1, 52.3, 33.9, 25.0, 36.4, 8.8, 20.0]
    text = "e;8i08O1O1O1O1O1O1O1O1O1O1O1O1O100O00000000000000000000O1000001O000000000000000O105K7I7IU9"
    theirs = segment_mask({"counts": text, "size": [40, 60]}, 60, 40)
    assert theirs.sum() == 1064 and (segment_mask([polygon], 60, 40) != theirs).sum() == 8
    two = segment_mask([[0, 0, 10, 0, 10, 10, 0, 10], [20, 0, 30, 0, 30, 10, 20, 10]], 60, 40)
    assert abs(int(two.sum()) - 200) <= 20 and not two[:, 12:18].any()


def square(x: float, y: float, side: float) -> list[list[float]]:
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]


def write_coco(folder: Path) -> tuple[Path, Path]:
    """Pictures of 160 x 100, whose middle square goes from 30 to 130.

    1: cat and dog, 50 x 50 each. 2: the dog lies half outside of the square. 3: a zebra, which is left out, and a cat.
    4: two cats, and a table by run lengths. 5: a crowd of dogs and a cat. 6: cat and dog again.
    """
    table = np.zeros((100, 160), bool)
    table[60:100, 80:130] = True
    words = {1: "cat", 2: "dog", 3: "zebra", 4: "dining table"}
    low = {"counts": runs_of(table), "size": [100, 160]}
    segments = [
        (1, 1, square(30, 0, 50), 0), (1, 2, square(80, 50, 50), 0),
        (2, 1, square(30, 0, 50), 0), (2, 2, square(105, 50, 50), 0),
        (3, 1, square(30, 0, 50), 0), (3, 3, square(80, 50, 50), 0),
        (4, 1, square(30, 0, 45), 0), (4, 1, square(80, 0, 50), 0), (4, 4, low, 0),
        (5, 1, square(30, 0, 50), 0), (5, 2, low, 1),
        (6, 1, square(30, 0, 50), 0), (6, 2, square(80, 50, 50), 0),
    ]  # fmt: skip
    images = [{"id": n, "file_name": f"{n:012d}.jpg", "width": 160, "height": 100} for n in (6, 1, 2, 3, 4, 5)]
    annotations = [
        {"id": i, "image_id": n, "category_id": c, "segmentation": s, "iscrowd": crowd, "area": 2500.0}
        for i, (n, c, s, crowd) in enumerate(segments)
    ]
    file = folder / "instances.json"
    categories = [{"id": k, "name": name} for k, name in words.items()]
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    pictures = folder / "pictures"
    pictures.mkdir()
    for n in range(1, 7):
        Image.new("RGB", (160, 100), (40 * n, 0, 0)).save(pictures / f"{n:012d}.jpg")
    return file, pictures


def test_which_pictures_are_scenes(tmp_path):
    table = json.loads(write_coco(tmp_path)[0].read_text())
    scenes = list(find_scenes(table))
    assert [scene.number for scene in scenes] == [1, 4, 6]
    first, cups, _ = scenes
    assert first.box == middle_square(160, 100) == (30, 0, 130, 100)
    assert {word: round(float(mask.mean()), 2) for word, mask in first.masks.items()} == {"cat": 0.25, "dog": 0.25}
    assert first.masks["cat"][:49, :49].all() and not first.masks["cat"][:, 52:].any()
    assert list(cups.masks) == ["cat", "dining table"] and cups.masks["cat"][10, 90] and not cups.masks["cat"][10, 10]
    assert [scene.number for scene in choose(scenes, 2)] == [1, 4]  # a new combination goes before another cat and dog
    assert [scene.number for scene in choose(scenes, 50)] == [1, 4, 6]


def test_the_command_writes_a_list_of_scenes(tmp_path, capsys):
    file, pictures = write_coco(tmp_path)
    out = tmp_path / "scenes"
    assert main(["coco", "--annotations", str(file), "--images", str(pictures), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "000000000001.jpg: cat 25%, dog 25%" in said and f"evaluate scenes --concepts {out}" in said
    jobs, problems = read_jobs(out / "concepts.toml", tmp_path / "runs", preset="scene")
    assert not problems and [job.settings.data.class_word for job in jobs] == [
        ("cat", "dog"), ("cat", "dining table"), ("cat", "dog"),
    ]  # fmt: skip
    with Image.open(jobs[1].settings.data.image[0]) as picture:
        assert picture.size == (100, 100) and abs(picture.getpixel((50, 50))[0] - 160) < 4
    with Image.open(jobs[1].settings.data.mask[1]) as mask:
        assert mask.size == (100, 100) and mask.getpixel((60, 70)) == 255 and mask.getpixel((60, 50)) == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "holds no images and annotations"),
        ('{"images": [], "annotations": []}', "holds no categories"),
        ('{"images": [], "annotations": [], "categories": []}', "no picture shows two things"),
        ('{"images": [{"id": 1}], "annotations": [], "categories": []}', "are not COCO's: KeyError 'width'"),
    ],
)
def test_what_is_no_coco_file_is_told(tmp_path, capsys, text, message):
    file = tmp_path / "x.json"
    file.write_text(text)
    assert main(["coco", "--annotations", str(file), "--images", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error and not (tmp_path / "out").exists()


def test_a_picture_of_another_size_than_its_outlines_is_told(tmp_path, capsys):
    """A copy that was made smaller: its middle square would be half black, and every mask beside its thing."""
    file, pictures = write_coco(tmp_path)
    Image.new("RGB", (80, 50)).save(pictures / "000000000004.jpg")
    assert main(["coco", "--annotations", str(file), "--images", str(pictures), "--out", str(tmp_path / "out")]) == 2
    assert "000000000004.jpg is 80x50, its outlines are of 160x100" in capsys.readouterr().err


def test_a_missing_picture_is_told_before_anything_is_written(tmp_path, capsys):
    file, pictures = write_coco(tmp_path)
    (pictures / "000000000004.jpg").unlink()
    assert main(["coco", "--annotations", str(file), "--images", str(pictures), "--out", str(tmp_path / "out")]) == 2
    assert "000000000004.jpg is missing: --images names" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
