"""find_mask on real photographs, offline: the face cascade, boxes and points, what is taken and what is refused."""

from __future__ import annotations

import os
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import pytest
from photos import astronaut_face, iou, solid, write_photo
from PIL import Image, ImageDraw, ImageFilter

from singleinsert.config import MaskSettings
from singleinsert.data.pictures import Picture, load_picture
from singleinsert.drawing.masked import EDGE, mask_overlay
from singleinsert.errors import ConfigError, InputError
from singleinsert.masks import find_mask, write_mask
from singleinsert.masks.backends import BACKENDS, Backends
from singleinsert.masks.candidates import Candidate, area, bounds, box_iou, clip_box, drop_overlapping
from singleinsert.masks.cascade import FaceCascade, is_face
from singleinsert.masks.find import parse_box, parse_points
from singleinsert.masks.grabcut import GrabCut


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for name in ("astronaut", "chelsea", "coffee"):
        write_photo(name, folder)
    return folder


def flat_picture(width: int = 100, height: int = 80) -> Picture:
    return Picture(Image.new("RGB", (width, height), (120, 130, 140)), None, Path("flat.png"))


class Fixed:
    """A backend whose candidates are given; nothing for other prompts."""

    name = "fixed"

    def __init__(self, **found: list[Candidate]) -> None:
        self.found = found
        self.closed = 0

    def find(self, image, prompt):
        return self.found.get(prompt, [])

    def outline(self, image, box, points):
        raise AssertionError("nobody pointed")

    def close(self):
        self.closed += 1


def candidate(box: tuple[int, int, int, int], score: float = 0.9, size: tuple[int, int] = (100, 80)) -> Candidate:
    mask = Image.new("L", size)
    mask.paste(255, box)
    return Candidate(mask, (box[0], box[1], box[2], box[3]), score, "thing")


def using(monkeypatch, **found: list[Candidate]) -> Fixed:
    backend = Fixed(**found)
    monkeypatch.setitem(BACKENDS, "cascade", lambda request: backend)
    return backend


# --- the face, offline ------------------------------------------------------------------------------------------------


def test_the_astronauts_face(photos):
    """The threshold is the project's promise, 0.6; measured when written: 0.95."""
    result = find_mask(load_picture(photos / "astronaut.png"), "face")
    assert iou(solid(result.mask), astronaut_face()) >= 0.85
    assert result.source == "face cascade and GrabCut" and result.chosen == (0,)
    assert result.share == pytest.approx(np.asarray(result.mask).mean() / 255)
    assert "covers 2.9% of the picture" in result.lines()[0]
    assert any("not on this machine" in note for note in result.notes), "says why the grounded models did not look"


def test_the_same_picture_gives_the_same_mask(photos):
    picture = load_picture(photos / "astronaut.png")
    assert find_mask(picture, "face").mask == find_mask(picture, "face").mask


@pytest.mark.parametrize(("scale", "turn"), [(0.5, 0), (2.2, 0), (1, 10)])
def test_other_sizes_and_a_tilted_head(photos, scale, turn):
    image = Image.open(photos / "astronaut.png").rotate(turn, Image.Resampling.BICUBIC)
    size = (round(512 * scale), round(512 * scale))
    picture = Picture(image.resize(size, Image.Resampling.LANCZOS), None, Path("a.png"))
    face = Image.fromarray(astronaut_face().astype(np.uint8) * 255).rotate(turn).resize(size)
    assert iou(solid(find_mask(picture, "face").mask), solid(face)) >= 0.75


def test_a_turned_camera(photos, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a turn by 90 degrees clockwise
    Image.open(photos / "astronaut.png").rotate(90).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    result = find_mask(load_picture(tmp_path / "turned.jpg"), "face")
    assert iou(solid(result.mask), astronaut_face()) >= 0.85


def test_an_odd_size(photos):
    image = Image.open(photos / "astronaut.png").crop((111, 0, 388, 333))  # 277x333
    result = find_mask(Picture(image, None, Path("odd.png")), "woman's face")
    assert result.mask.size == (277, 333)
    assert iou(solid(result.mask), astronaut_face()[0:333, 111:388]) >= 0.85


@pytest.mark.parametrize("name", ["chelsea", "coffee"])
def test_a_picture_without_a_face(photos, name):
    with pytest.raises(InputError) as caught:
        find_mask(load_picture(photos / f"{name}.png"), "face")
    text = str(caught.value)
    assert "no face was found" in text and f"{name}.png" in text and "\n" not in text
    assert "NAME_mask.png" in text and "--box left,top,right,bottom" in text


def test_offline_only_faces_can_be_found(photos):
    with pytest.raises(
        InputError, match=r"no way to find cat: .*grounding-dino-tiny.* cannot be reached; put a mask beside"
    ):
        find_mask(load_picture(photos / "chelsea.png"), "cat")
    with pytest.raises(InputError, match="the face cascade finds faces only, not 'cat'"):
        find_mask(load_picture(photos / "chelsea.png"), "cat", backend="cascade")


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [("face", True), ("a woman's Face.", True), ("typeface", False), ("cat", False), ("", False)],
)
def test_what_counts_as_a_face(prompt, expected):
    assert is_face(prompt) is expected


def test_faces_come_with_the_place_of_the_cascades_square(photos):
    (box, score), *rest = FaceCascade().detect(Image.open(photos / "astronaut.png"))
    assert box_iou(box, (177, 67, 270, 160)) > 0.8 and score > 0.6
    assert all(other < 0.35 for _, other in rest)


# --- pointing at it ---------------------------------------------------------------------------------------------------


def test_a_box_around_the_cup_and_its_saucer(photos):
    result = find_mask(load_picture(photos / "coffee.png"), "cup", box=(75, 15, 480, 385))
    mask = solid(result.mask)
    assert result.source == "GrabCut" and 0.35 < result.share < 0.55
    assert mask[150, 290] and mask[330, 300], "coffee and the saucer's front"
    assert not mask[30, 90] and not mask[370, 90] and not mask[:, :70].any(), "the table, and all outside of the box"


def test_points_with_and_without_a_box(photos):
    picture = load_picture(photos / "coffee.png")
    plain = solid(find_mask(picture, "cup", box=(75, 15, 480, 385)).mask)
    assert plain[270, 365], "the spoon"
    # the spoon is pointed out: it goes, and no filling of holes brings it back
    cut = solid(find_mask(picture, "cup", box=(75, 15, 480, 385), points=("290,150", "365,270,0")).mask)
    assert not cut[270, 365] and cut[150, 290]
    alone = find_mask(picture, "cup", points=("290,150",))
    assert solid(alone.mask)[150, 290] and alone.candidates[0].label == "points"


def test_hair_by_a_box_without_the_face(photos):
    """Offline too: GrabCut takes the box, the face that the cascade finds is cut away."""
    picture = load_picture(photos / "astronaut.png")
    with_face = find_mask(picture, "hair", box=(150, 10, 305, 185))
    without = find_mask(picture, "hair", box=(150, 10, 305, 185), subtract=("face", "hand"))
    face = astronaut_face()
    assert np.count_nonzero(solid(with_face.mask) & face) > 0.8 * np.count_nonzero(face)
    assert np.count_nonzero(solid(without.mask) & face) < 0.1 * np.count_nonzero(face)
    assert solid(without.mask)[40, 230], "the hair above the brow stays"
    assert "face is cut away" in without.notes and "hand is not cut away: GrabCut cannot look for it" in without.notes


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"box": (10, 10, 5, 50)}, "--box 10,10,5,50 is not left,top,right,bottom"),
        ({"box": (1, 2, 3)}, "--box 1,2,3 is not"),
        ({"box": (700, 10, 800, 50)}, "holds nothing of the 600x400 picture"),
        ({"points": ("ten,20",)}, "point 'ten,20' is not x,y"),
        ({"points": ("10,20,2",)}, "point '10,20,2' is not"),
        ({"points": ("10",)}, "point '10' is not"),
        ({"points": ("nan,20",)}, "point 'nan,20' is not"),
        ({"points": ("10,20,0",)}, "nothing marks the subject"),
        ({"backend": "grabcut"}, "GrabCut cannot look for 'cup'"),
    ],
)
def test_pointing_at_nothing(photos, options, says):
    with pytest.raises(InputError, match=says):
        find_mask(load_picture(photos / "coffee.png"), "cup", **options)


def test_boxes_and_points_as_they_are_read():
    assert parse_box(()) is None and parse_box((1, 2, 3, 4)) == (1.0, 2.0, 3.0, 4.0)
    assert parse_points(("1,2", "3,4,0", " 5 , 6 , 1", (7.0, 8.0, True))) == [
        (1, 2, True), (3, 4, False), (5, 6, True), (7, 8, True),
    ]  # fmt: skip


def test_a_box_over_the_whole_of_a_flat_picture_is_refused_or_cut(photos):
    """Nothing to tell apart must not crash opencv."""
    picture = flat_picture()
    with pytest.raises(InputError, match=r"empty|leaves no background"):
        result = find_mask(picture, "thing", box=(0, 0, 100, 80))
        raise InputError(f"leaves no background? {result.share}")


def test_grabcut_finds_a_disc_exactly():
    y, x = np.ogrid[:160, :200]
    disc = (x - 110) ** 2 + (y - 70) ** 2 <= 40**2
    values = np.where(disc[..., None], (200, 60, 40), (40, 70, 160)).astype(np.int16)
    values += np.random.default_rng(0).integers(-20, 20, values.shape, dtype=np.int16)
    image = Image.fromarray(values.clip(0, 255).astype(np.uint8))
    found = GrabCut().outline(image, (65, 25, 155, 115), ())
    assert iou(solid(found.mask), disc) > 0.97


# --- which candidate --------------------------------------------------------------------------------------------------


def test_the_best_is_taken_and_said(monkeypatch):
    using(monkeypatch, face=[candidate((10, 10, 40, 40), 0.9), candidate((50, 20, 90, 70), 0.7)])
    result = find_mask(flat_picture(), "face")
    assert bounds(solid(result.mask)) == (10, 10, 40, 40) and result.chosen == (0,)
    lines = result.lines()
    assert lines[1] == "  0: thing, score 0.90, 11.2% of the picture, box 10,10,40,40  <- taken"
    assert lines[2] == "  1: thing, score 0.70, 25.0% of the picture, box 50,20,90,70"
    assert "face was found 2 times, number 0 is taken: another one with --mask_index N" in lines[4]


def test_another_one(monkeypatch):
    using(monkeypatch, face=[candidate((10, 10, 40, 40)), candidate((50, 20, 90, 70))])
    assert bounds(solid(find_mask(flat_picture(), "face", mask_index=1).mask)) == (50, 20, 90, 70)
    with pytest.raises(InputError, match=r"--mask_index 2: face was found 2 time\(s\)"):
        find_mask(flat_picture(), "face", mask_index=2)


def test_all_of_them(monkeypatch):
    using(monkeypatch, face=[candidate((10, 10, 40, 40)), candidate((50, 20, 90, 70))])
    result = find_mask(flat_picture(), "face", merge=True)
    assert result.share == pytest.approx((900 + 2000) / 8000) and result.chosen == (0, 1)


def test_a_candidate_that_cannot_train_is_passed_over(monkeypatch):
    using(monkeypatch, face=[candidate((0, 0, 2, 2), 0.99), candidate((50, 20, 90, 70), 0.5)])
    assert find_mask(flat_picture(), "face").chosen == (1,)
    with pytest.raises(InputError, match=r"the mask of face in flat.png covers a speck of 4 pixels"):
        find_mask(flat_picture(), "face", mask_index=0)


def test_parts_are_subtracted(monkeypatch):
    backend = using(monkeypatch, face=[candidate((10, 10, 60, 60))], eyes=[candidate((20, 20, 30, 60))])
    result = find_mask(flat_picture(), "face", subtract=("eyes", "nose"))
    assert result.share == pytest.approx((50 * 50 - 10 * 40) / 8000)
    assert result.notes[-2:] == ("eyes is cut away", "no nose was found to cut away")
    assert backend.closed == 1, "freed before training begins"


def test_a_face_in_the_middle_of_its_hair_stays_out(monkeypatch):
    """Filling holes must not bring back what was subtracted."""
    using(monkeypatch, face=[candidate((10, 10, 90, 70))], inner=[candidate((30, 30, 60, 60))])
    assert find_mask(flat_picture(), "face", subtract=("inner",)).share == pytest.approx((80 * 60 - 900) / 8000)


def test_backends_are_freed_when_something_fails(monkeypatch):
    backend = using(monkeypatch)
    with pytest.raises(InputError, match="no face was found"):
        find_mask(flat_picture(), "face")
    assert backend.closed == 1


def test_backends_of_a_batch_stay_open(monkeypatch):
    backend = using(monkeypatch, face=[candidate((10, 10, 40, 40))])
    with Backends("cascade") as backends:
        for _ in range(2):
            find_mask(flat_picture(), "face", backends=backends)
        assert backend.closed == 0
    assert backend.closed == 1


# --- files and alpha --------------------------------------------------------------------------------------------------


def test_a_given_mask_is_taken_as_it_is(tmp_path):
    mask = Image.new("L", (100, 80))
    mask.paste(200, (10, 10, 60, 60))
    mask.paste(0, (30, 30, 35, 35))  # a hole that no clean-up fills
    mask.save(tmp_path / "m.png")
    result = find_mask(flat_picture(), "cat", file=tmp_path / "m.png")
    assert result.mask == mask and result.source == f"file {tmp_path / 'm.png'}" and result.candidates == ()
    padded = find_mask(flat_picture(), "cat", file=tmp_path / "m.png", padding=0.05)
    assert bounds(solid(padded.mask)) == (6, 6, 64, 64), "asked for: 4 pixels more on each side"


def test_a_folder_of_masks_pairs_by_name(tmp_path):
    candidate((10, 10, 60, 60)).mask.save(tmp_path / "flat.png")
    assert find_mask(flat_picture(), "cat", file=tmp_path).source == f"file {tmp_path / 'flat.png'}"


def test_the_alpha_channel_comes_before_any_search():
    alpha = candidate((10, 10, 60, 60)).mask
    picture = Picture(Image.new("RGB", (100, 80)), alpha, Path("cut.png"))
    for backend in ("auto", "alpha", "mini", "grabcut"):
        result = find_mask(picture, "anything", backend=backend)
        assert result.mask == alpha and result.source == "the picture's alpha channel"
    with pytest.raises(InputError, match="no transparent part"):
        find_mask(flat_picture(), "cat", backend="alpha")


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_what_is_written(photos, tmp_path):
    result = find_mask(load_picture(photos / "astronaut.png"), "face")
    mask, shown = write_mask(result, tmp_path, "me")
    assert (mask.name, shown.name) == ("me_mask.png", "me_mask_overlay.png")
    again = find_mask(load_picture(photos / "astronaut.png"), "face", file=mask)
    assert again.mask == result.mask, "can be given back with --mask"
    overlay = np.asarray(Image.open(shown)).astype(int)
    photo = np.asarray(Image.open(photos / "astronaut.png")).astype(int)
    assert overlay.shape[0] > 512 and overlay.shape[1] == 512, "a caption below"
    assert np.array_equal(overlay[120, 225], photo[120, 225]), "the subject as it is"
    assert np.ptp(overlay[300, 100]) == 0 and overlay[300, 100].min() >= 0.6 * 255, "the rest greyed and paled"
    assert (overlay[90:155, 177] == (60, 255, 60)).all(), "the left side of the detected box"


def test_an_edited_mask_is_not_written_over(tmp_path):
    def made(box):
        return find_mask(Picture(Image.new("RGB", (100, 80)), candidate(box).mask, Path("a.png")), "cat")

    mask, shown = write_mask(made((10, 10, 60, 60)), tmp_path, "a")
    write_mask(made((10, 10, 50, 50)), tmp_path, "a")  # nobody touched it: made anew with other settings
    edited = candidate((0, 0, 40, 40)).mask
    edited.save(mask)
    later = shown.stat().st_mtime_ns + 10_000_000
    os.utime(mask, ns=(later, later))
    with pytest.raises(InputError, match=r"a_mask\.png was edited or made by hand: use it with --mask"):
        write_mask(made((10, 10, 60, 60)), tmp_path, "a")
    assert Image.open(mask).tobytes() == edited.tobytes()
    write_mask(find_mask(flat_picture(), "cat", file=mask), tmp_path, "a")  # it was given back: the same mask
    write_mask(made((10, 10, 60, 60)), tmp_path, "a", overwrite=True)
    assert Image.open(mask).tobytes() == made((10, 10, 60, 60)).mask.tobytes()


def test_a_mask_made_by_hand_stays_as_it_is(tmp_path):
    """Given back and padded for training, before and after a picture of it was drawn; and where it was not given."""
    mask, hand = tmp_path / "a_mask.png", candidate((10, 10, 40, 40)).mask
    hand.save(mask)
    found = find_mask(Picture(Image.new("RGB", (100, 80)), candidate((0, 0, 60, 60)).mask, Path("a.png")), "cat")
    for _ in range(2):
        padded = find_mask(flat_picture(), "cat", file=mask, padding=0.1)
        assert padded.share > 1.2 * 900 / 8000
        write_mask(padded, tmp_path, "a")
        assert Image.open(mask).tobytes() == hand.tobytes() and (tmp_path / "a_mask_overlay.png").is_file()
        with pytest.raises(InputError, match="made by hand"):
            write_mask(found, tmp_path, "a")


@pytest.mark.parametrize("size", [(90, 70), (1300, 900)])
def test_outlines_are_those_of_pils_rank_filters(size):
    """Which take a minute on a photo of 12 megapixels."""
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).ellipse((0, size[1] // 5, size[0] // 2, size[1] - 9), fill=255)
    near, picture = max(1, max(size) // 160), Image.new("RGB", size, "teal")
    wide = np.asarray(mask.filter(ImageFilter.MaxFilter(2 * near + 1))) > np.asarray(mask)
    assert np.array_equal((np.asarray(mask_overlay(picture, mask)) == EDGE).all(-1), wide)


def test_small_pictures_are_shown_larger():
    picture = Picture(Image.new("RGB", (64, 48)), candidate((10, 10, 60, 40), size=(64, 48)).mask, Path("a.png"))
    assert find_mask(picture, "cat").overlay().size[0] == 384


def test_the_settings_are_the_keywords(photos):
    """What training passes, `vars(settings.mask)`, is accepted whole, with the same defaults."""
    defaults = find_mask.__kwdefaults__
    assert {name: defaults[name] for name in asdict(MaskSettings())} == asdict(MaskSettings())
    assert set(defaults) - {f.name for f in fields(MaskSettings)} == {"file", "beside", "device", "backends"}


def test_an_unknown_backend():
    with pytest.raises(ConfigError, match="mask backend 'sam' is unknown: auto, alpha, grounded"):
        find_mask(flat_picture(), "cat", backend="sam")


def test_box_geometry_by_hand():
    assert area((10, 10, 20, 30)) == 200 and area((20, 10, 10, 30)) == 0
    # 10x10 each, a quarter of one shared: 25 / (100 + 100 - 25)
    assert box_iou((0, 0, 10, 10), (5, 5, 15, 15)) == pytest.approx(25 / 175)
    assert box_iou((0, 0, 10, 10), (10, 0, 20, 10)) == 0
    assert clip_box((-5, 3, 120, 90), (100, 80)) == (0, 3, 100, 80)
    boxes = [(0, 0, 10, 10), (0, 0, 10, 9), (50, 50, 60, 60)]
    # the second lies within the first: 90 / 100 shared, over 0.8; the better score stays
    assert drop_overlapping(boxes, [0.5, 0.8, 0.6], 0.8) == [1, 2]
    assert drop_overlapping(boxes, [0.5, 0.8, 0.6], 0.95) == [1, 2, 0]
    assert bounds(np.zeros((3, 4), bool)) == (0, 0, 0, 0)
