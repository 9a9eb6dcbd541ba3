"""Folders of photos: what is taken, what is left out and why, and the one rule for where a mask lies."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from singleinsert.data.folders import list_folder, mask_in, mask_of
from singleinsert.data.opening import heif_is_read
from singleinsert.errors import InputError


def put(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(path, format="PNG")


def test_what_is_taken_and_what_is_left_out(tmp_path):
    put(tmp_path, "a.JPG", "b.jfif", "c.avif", "e.jpg~", "f.jpg.png", "g.Jpeg", "i", "j.jp2", "rex_mask.png", "rex.png")
    put(tmp_path, "rex_mask_overlay.png", "rex-condlabel.png", "2023/x.png", "masks/rex.png", ".hidden.png", "._a.JPG")
    for name in ("Thumbs.db", "desktop.ini", ".DS_Store", "a.txt", "metadata.jsonl", "notes", "clip.mp4", "d.HEIC"):
        (tmp_path / name).write_text("no picture")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    listing = list_folder(tmp_path)
    names = ["a.JPG", "b.jfif", "c.avif", "f.jpg.png", "g.Jpeg", "i", "j.jp2", "rex.png"]
    names = sorted([*names, "d.HEIC"], key=str.lower) if heif_is_read() else names
    assert [path.name for path in listing.pictures] == names
    assert [path.name for path in listing.folders] == ["2023"]
    lines = " ".join(listing.lines())
    assert str(tmp_path) in lines
    for said in ("e.jpg~: no picture that is read", "notes: no picture", "clip.mp4: no picture", "rex_mask_overlay.png",
                 "rex-condlabel.png: OneTrainer", "masks/: masks, no photos", "gone.png: no file"):  # fmt: skip
        assert said in lines, (said, lines)
    assert ("d.HEIC: HEIC pictures need pillow-heif" in lines) == (not heif_is_read())
    for unsaid in ("Thumbs", "desktop", "DS_Store", "hidden", "._a", "a.txt", "metadata", "rex_mask.png"):
        assert unsaid not in lines


@pytest.mark.parametrize(
    "name", ["rex_mask.png", "rex_mask.PNG", "Rex_Mask.jpg", "REX_MASK.JPG", "rex-masklabel.png", "rex_mask.webp"]
)
def test_the_mask_beside_a_picture(tmp_path, name):
    put(tmp_path, "rex.png", "rexy.png", name)
    assert mask_of(tmp_path / "rex.png") == tmp_path / name and mask_of(tmp_path / "rexy.png") is None
    assert [path.name for path in list_folder(tmp_path).pictures] == ["rex.png", "rexy.png"]


def test_the_mask_in_the_folder_that_masks_batch_writes(tmp_path):
    put(tmp_path, "photos/face/rex.jpg", "photos/face_masks/REX.png", "photos/face_masks/overlays/rex.png")
    assert mask_of(tmp_path / "photos/face/rex.jpg") == tmp_path / "photos/face_masks/REX.png"
    listing = list_folder(tmp_path / "photos")
    assert [path.name for path in listing.folders] == ["face"] and "face_masks/: masks" in listing.lines()[0]
    put(tmp_path, "photos/face/rex_mask.png")
    with pytest.raises(InputError, match=r"several masks for rex.jpg .*rex_mask.png, .*REX.png; keep one"):
        mask_of(tmp_path / "photos/face/rex.jpg")


def test_a_set_of_named_masks_is_nobodys_mask(tmp_path):
    """`masks find` with several words writes scene_masks/ beside scene.jpg."""
    put(tmp_path, "scene.jpg", "scene_masks/cat.png", "scene/cat.jpg")
    (tmp_path / "scene_masks/masks.toml").write_text("version = 1\n")
    assert mask_of(tmp_path / "scene/cat.jpg") is None and mask_of(tmp_path / "scene.jpg") is None
    assert [path.name for path in list_folder(tmp_path).folders] == ["scene"]


def test_accents_are_one_letter_or_two(tmp_path):
    """macOS takes them apart, Windows does not."""
    put(tmp_path, unicodedata.normalize("NFC", "jürgen.png"), unicodedata.normalize("NFD", "jürgen_mask.png"))
    (picture,) = list_folder(tmp_path).pictures
    mask = mask_of(picture)
    assert mask is not None and mask.name.endswith("_mask.png")


@pytest.mark.parametrize("second", ["rex_mask.jpg", "rex_mask.PNG", "rex-masklabel.png"])
def test_two_masks_are_an_error(tmp_path, second):
    put(tmp_path, "rex.png", "rex_mask.png", second)
    with pytest.raises(InputError, match=r"several masks for rex.png .*; keep one, or name one with --mask"):
        mask_of(tmp_path / "rex.png")


def test_a_folder_of_masks_that_is_named(tmp_path):
    put(tmp_path, "photos/rex.png", "m/REX.PNG", "n/rex-masklabel.png", "both/rex.png", "both/rex_mask.png")
    picture = tmp_path / "photos/rex.png"
    assert mask_in(picture, tmp_path / "m") == tmp_path / "m/REX.PNG"
    assert mask_in(picture, tmp_path / "n") == tmp_path / "n/rex-masklabel.png"
    with pytest.raises(InputError, match="several masks"):
        mask_in(picture, tmp_path / "both")
    put(tmp_path, "photos/rex_mask.png")
    assert mask_in(picture, tmp_path / "photos") == tmp_path / "photos/rex_mask.png", "never the picture itself"


def test_no_folder(tmp_path):
    with pytest.raises(InputError, match="folder of pictures not found"):
        list_folder(tmp_path / "nowhere")
