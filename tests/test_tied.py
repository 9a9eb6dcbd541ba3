"""What the subject wears, cut out of its mask (caption.mode O5), and styles, which have no mask."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from singleinsert.captions.__main__ import main as captions
from singleinsert.config import Settings, load_settings
from singleinsert.config.load import from_values, to_values
from singleinsert.errors import ConfigError
from singleinsert.masks.mini import MiniSegmenter
from singleinsert.training.encode import make_prompting
from singleinsert.training.prepare import find_material
from testbed.world.features import EDITS
from testbed.world.scene import Instance, Scene, draw

CAPTION = "a photo of a {concept} wearing a red top hat on pink fabric"


@pytest.fixture
def hatted(tmp_path) -> tuple[Settings, Scene]:
    """A drawn face in a red top hat, with its exact mask and its description."""
    plain = {name: values[0] for name, values in EDITS.items()}
    scene = Scene((Instance.from_seed(7, "face"),), (plain | {"hat": "top hat", "hat_color": "red"},), "pink fabric")
    drawn = draw(scene)
    drawn.image.save(tmp_path / "me.png")
    drawn.masks["subject"].save(tmp_path / "me_mask.png")
    (tmp_path / "me.txt").write_text(CAPTION)
    return load_settings("mini+plain", None, {"data.image": str(tmp_path / "me.png")}), scene


def with_mode(settings: Settings, mode: str) -> Settings:
    return from_values(to_values(settings) | {"caption.mode": mode})


def mask_of(settings: Settings, said: list[str]) -> np.ndarray:
    return np.asarray(find_material(settings, said.append).pictures[0].subjects[0].mask) > 127


def test_the_hat_is_cut_out_of_the_mask_and_the_words_are_those_of_o2(hatted):
    settings, scene = hatted
    said: list[str] = []
    exact = draw(scene).masks
    hat, subject = (np.asarray(exact[name]) > 127 for name in ("hat", "subject"))
    whole, cut = mask_of(with_mode(settings, "O2"), []), mask_of(with_mode(settings, "O5"), said)
    assert (whole == subject).all() and (whole & hat).sum() > 200
    assert (cut & hat).sum() < 0.05 * hat.sum() and (cut & ~hat).sum() > 0.85 * (subject & ~hat).sum()
    assert any("without red top hat" in line for line in said)
    asked = {
        mode: make_prompting(s, find_material(s, str), str).at("stage1", 0)
        for mode in ("O2", "O5")
        if (s := with_mode(settings, mode))
    }
    assert asked["O2"] == asked["O5"] and "top hat" in asked["O5"].frozen_prompt


def test_without_o5_the_part_is_offered(hatted):
    said: list[str] = []
    mask_of(hatted[0], said)
    (offer,) = [line for line in said if "caption.mode=O5" in line]
    assert "'wearing a red top hat'" in offer
    said.clear()
    mask_of(with_mode(hatted[0], "off"), said)
    assert not any("O5" in line for line in said)


def test_what_is_not_found_is_said_and_what_lies_beside_stays(hatted):
    settings, _ = hatted
    place = settings.data.image[0].removesuffix(".png")
    whole = mask_of(with_mode(settings, "O2"), [])
    for text, note in (
        ("a photo of a * face wearing a yellow scarf", "yellow scarf was not found: it stays in the mask"),
        ("a photo of a * face beside a blue cup", "nothing was found to cut out"),
    ):
        with open(f"{place}.txt", "w") as file:
            file.write(text)
        said: list[str] = []
        assert (mask_of(with_mode(settings, "O5"), said) == whole).all()
        assert any(note in line for line in said)


@pytest.mark.parametrize(
    ("backend", "said"),
    [("mini", "has no word for 'green necktie'"), ("alpha", "mask.backend alpha reads a picture's own mask")],
)
def test_what_cannot_be_looked_for_says_why(hatted, backend, said):
    settings, _ = hatted
    Path(settings.data.image[0]).with_suffix(".txt").write_text("a photo of a * face wearing a green necktie")
    asked = from_values(to_values(with_mode(settings, "O5")) | {"mask.backend": backend})
    lines: list[str] = []
    mask_of(asked, lines)
    assert any("green necktie was not looked for (" in line and said in line for line in lines)


def test_kinds_of_what_the_segmenter_knows_are_found(hatted):
    picture = draw(hatted[1]).image
    for kinds in (("hat", "cap", "beanie"), ("glasses", "sunglasses")):
        masks = {MiniSegmenter().find(picture, f"a red {kind}")[0].mask.tobytes() for kind in kinds}
        assert len(masks) == 1


def test_places_are_looked_for_in_the_picture_not_in_the_mask_beside_it(hatted, capsys):
    """A mask that lies beside a picture, or its alpha channel, is the subject's, and no thing's of a phrase."""
    image, mask = (Path(hatted[0].data.image[0]), Path(hatted[0].data.image[0].replace(".png", "_mask.png")))
    words = ["check", "--image", str(image), "--class_word", "face", "--preset", "mini+plain", "--places"]
    assert captions(words) == 0
    beside = capsys.readouterr().out
    cut = Image.open(image).convert("RGBA")
    cut.putalpha(Image.open(mask))
    cut.save(image)
    mask.unlink()
    assert captions(words) == 0
    for said in (beside, capsys.readouterr().out):
        assert re.search(r"wearing a red top hat.*it lies inside the subject's mask", said)
        assert "its mask is the subject's" not in said


def test_a_mask_of_the_hat_itself_is_not_emptied(hatted):
    settings, scene = hatted
    MiniSegmenter().find(draw(scene).image, "hat")[0].mask.save(settings.data.image[0].replace(".png", "_mask.png"))
    said: list[str] = []
    assert mask_of(with_mode(settings, "O5"), said).sum() > 200
    assert any("nothing was found to cut out" in line for line in said)


def test_a_style_is_learnt_from_the_whole_picture(hatted, tmp_path):
    assert hatted
    (tmp_path / "me.txt").write_text("a painting in the style of * art of a face on pink fabric")
    values = {"data.image": str(tmp_path / "me.png"), "data.class_word": "art"}
    with pytest.raises(ConfigError, match="a style has no mask"):
        find_material(load_settings("mini+plain", None, values), str)
    plain = values | {"stage1.objective": "full_image", "stage2.objective": "full_image"}
    styled = load_settings("mini+plain", None, plain)
    material = find_material(styled, str)
    assert material.pictures[0].subjects[0].share == 1.0
    assert material.pictures[0].subjects[0].mask.getextrema() == (255, 255)
    prompt = make_prompting(styled, material, str).at("stage1", 0)
    assert prompt.prompt == "a painting in the style of * art of a face on pink fabric"
    assert Image.open(tmp_path / "me.png").size == (64, 64)
