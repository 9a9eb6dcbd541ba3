"""Where masks lie: find_mask takes the one beside the picture, and what writes one writes it there."""

from __future__ import annotations

import pytest
from PIL import Image
from runs import draw_subject

from singleinsert.data.pictures import load_picture
from singleinsert.errors import InputError
from singleinsert.masks import find_mask, write_beside
from singleinsert.masks.find import parse_box, place_of


def test_the_mask_beside_the_picture_is_taken_and_said_first(tmp_path):
    image, mask = draw_subject(tmp_path)
    found = find_mask(load_picture(image), "face")
    assert found.file == mask and found.lines()[0].startswith(f"mask: from file {mask}, covers ")
    mask.rename(tmp_path / "PIC-MaskLabel.PNG")
    assert find_mask(load_picture(image), "face").file == tmp_path / "PIC-MaskLabel.PNG"


def test_who_points_or_chooses_searches_anew(tmp_path):
    image, _ = draw_subject(tmp_path)
    picture = load_picture(image)
    for wish in ({"box": (20, 10, 60, 50)}, {"points": ("40,30",)}, {"beside": False, "box": (20, 10, 60, 50)}):
        assert find_mask(picture, "face", **wish).file is None
    for wish in ({"mask_index": 0}, {"merge": True}):
        with pytest.raises(InputError, match="no face was found"):
            find_mask(picture, "face", **wish)


def test_a_guess_has_no_score_and_the_box_that_was_given(tmp_path):
    image, _ = draw_subject(tmp_path)
    (line,) = find_mask(load_picture(image), "face", box=(20, 10, 60, 50)).lines()[1:2]
    assert (
        line.startswith("  0: outlined by box, ") and line.endswith("box 20,10,60,50  <- taken") and "score" not in line
    )
    (line,) = find_mask(load_picture(image), "face", points=("40,30",)).lines()[1:2]
    assert "outlined by points" in line and "score" not in line


@pytest.mark.parametrize("box", [(float("nan"), 0, 1, 1), (0, 0, float("inf"), 1)])
def test_boxes_of_no_numbers(box):
    with pytest.raises(InputError, match="is not left,top,right,bottom"):
        parse_box(box)


def test_masks_are_written_where_they_are_looked_for(tmp_path):
    """What --mask_only, masks edit, training, batch and evaluation say of one picture is one place."""
    image, mask = draw_subject(tmp_path)
    drawn = mask.read_bytes()
    mask.unlink()
    assert place_of(image) == mask
    found = find_mask(load_picture(image), "face", box=(20, 10, 60, 50))
    assert write_beside(found) == (mask, tmp_path / "pic_mask_overlay.png")
    assert find_mask(load_picture(image), "face").file == mask == place_of(image)
    mask.unlink()
    other = tmp_path / "pic-masklabel.png"
    other.write_bytes(drawn)
    with pytest.raises(InputError, match="is the mask of pic.png already"):
        write_beside(found)
    assert write_beside(find_mask(load_picture(image), "face")) == (other, tmp_path / "pic_mask_overlay.png")
    assert other.read_bytes() == drawn and place_of(image) == other and not mask.exists()


def test_a_profile_that_is_no_use_is_said_with_the_mask(tmp_path):
    image, _ = draw_subject(tmp_path)
    Image.open(image).save(image, icc_profile=b"none")
    assert any("colour profile" in line for line in find_mask(load_picture(image), "face").lines())
