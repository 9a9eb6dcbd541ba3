"""The checks on a phrase: geometry of masks, rho's algebra and what it finds in the drawn world, and the verdict."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from singleinsert.captions.geometry import Placement, place, place_phrases, thing_of
from singleinsert.captions.phrases import Phrase, split_caption
from singleinsert.captions.rho import DRAWS, Rho, frozen_errors, phrase_rhos, rho
from singleinsert.captions.verdicts import judge
from singleinsert.errors import InputError


def mask(*boxes: tuple[int, int, int, int], size: tuple[int, int] = (100, 100)) -> Image.Image:
    out = Image.new("L", size)
    for box in boxes:
        out.paste(255, box)
    return out


SUBJECT = mask((0, 0, 50, 100))  # 5,000 pixels


@pytest.mark.parametrize(
    ("thing", "inside", "cover", "kind"),
    [
        (SUBJECT, 1.0, 1.0, "subject"),
        (mask((10, 0, 40, 20)), 1.0, 0.12, "tied"),  # 600 of 600 inside, 600 of 5,000
        (mask((60, 0, 100, 50)), 0.0, 0.0, "beside"),
        (mask((25, 0, 75, 40)), 0.5, 0.2, "unclear"),  # 1,000 of 2,000 inside, 1,000 of 5,000
        (mask((0, 0, 50, 60)), 1.0, 0.6, "unclear"),  # too much of it to be worn, too little to be it
    ],
)
def test_where_a_thing_lies(thing, inside, cover, kind):
    found = place(thing, SUBJECT)
    assert (found.inside, found.cover, found.kind) == (pytest.approx(inside), pytest.approx(cover), kind)
    assert f"{inside:.0%} inside" in found.reason


def test_masks_that_cannot_be_compared():
    for thing in (mask(), mask((0, 0, 9, 9), size=(50, 50))):
        with pytest.raises(InputError):
            place(thing, SUBJECT)


def test_phrases_are_placed_by_their_thing():
    asked: list[str] = []

    def find(thing: str) -> Image.Image | None:
        asked.append(thing)
        return {"red top hat": mask((10, 0, 40, 20)), "table": mask()}.get(thing)

    phrases = split_caption("a smiling {concept} wearing a red top hat, on the table, in soft light", "face")
    found = place_phrases(phrases, SUBJECT, find)
    assert asked == ["red top hat", "table"] and found[0] is None and found[3] is None
    assert found[1] == Placement(1.0, 0.12) and found[2] is None  # an empty mask is no place
    assert thing_of("with its long hair") == "long hair" and thing_of("in") == "in"


def test_the_words_find_the_leaks_of_drawn_captions():
    """Captions that name every feature of a drawn subject, and everything else: 60 of the page's 400."""
    from testbed.caption_checks import judged_words

    found = judged_words(60)
    leaks = found[True, True] + found[True, False]
    assert leaks > 150 and found[True, True] / leaks > 0.97 and found[False, True] == 0 < found[False, False]


# --- rho --------------------------------------------------------------------------------------------------------------
def test_rho_is_the_ratio_of_means_with_a_paired_error():
    errors = {"with": torch.tensor([1.0, 2.0, 3.0]), "without": torch.tensor([2.0, 2.0, 4.0])}
    found = rho(errors.__getitem__, "with", "without")
    # means 2 and 8/3: 0.75; residuals 1 - 1.5, 2 - 1.5, 3 - 3 = -0.5, 0.5, 0: variance 0.5 / 2, over sqrt(3) and 8/3
    assert found.ratio == pytest.approx(0.75)
    assert found.error == pytest.approx((0.25**0.5) / (3**0.5 * 8 / 3))
    assert not found.is_wrong
    worse = rho(errors.__getitem__, "without", "with")
    assert worse.ratio == pytest.approx(4 / 3)
    assert rho(lambda _: torch.tensor([5.0]), "a", "b") == Rho(1.0, 0.0)


def test_rho_does_not_depend_on_the_scale_of_the_errors():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(8, generator=generator) + 1, torch.rand(8, generator=generator) + 1
    plain = rho({"a": a, "b": b}.__getitem__, "a", "b")
    scaled = rho({"a": a * 7, "b": b * 7}.__getitem__, "a", "b")
    assert (plain.ratio, plain.error) == (pytest.approx(scaled.ratio), pytest.approx(scaled.error))


def test_each_phrase_is_left_out_once():
    asked: list[str] = []

    def error_of(prompt: str) -> torch.Tensor:
        asked.append(prompt)
        return torch.full((4,), float(len(prompt)))

    caption = "a {concept} wearing a red hat on snow"
    found = phrase_rhos(error_of, caption, split_caption(caption, "face"), "face")
    full, no_hat, no_snow = "a face wearing a red hat on snow", "a face on snow", "a face wearing a red hat"
    assert asked == [full, no_hat, full, no_snow]
    assert [r.ratio for r in found] == pytest.approx([len(full) / len(no_hat), len(full) / len(no_snow)])


@pytest.fixture(scope="module")
def drawn():
    """A drawn face in a red top hat on pink fabric, the mini model's error on it, and the mask of its left half."""
    from singleinsert.models.bundled import MINI_SD
    from singleinsert.models.loading import load_base_model
    from testbed.world.features import EDITS, EDITS_OF
    from testbed.world.scene import Instance, Scene, draw

    edits = {k: "none" if "none" in EDITS[k] else EDITS[k][0] for k in EDITS_OF["face"]}
    edits |= {"hat": "top hat", "hat_color": "red"}
    scene = Scene((Instance.from_seed(1_000_003, "face"),), (edits,), "pink fabric", "photo", "front", 3)
    return load_base_model(MINI_SD), draw(scene, masks=False).image


def test_rho_finds_a_wrong_phrase_in_the_drawn_world(drawn):
    base, picture = drawn
    error_of = frozen_errors(base, picture, 64)
    assert error_of("a face").shape == (DRAWS,)

    def rhos(caption: str) -> list[Rho]:
        return phrase_rhos(error_of, caption, split_caption(caption, "face"), "face")

    right = rhos("a photo of a {concept} wearing a red top hat on pink fabric")
    assert all(r.ratio < 1 for r in right) and not any(r.is_wrong for r in right)
    hat, _ = rhos("a photo of a {concept} wearing a green cap on pink fabric")
    assert hat.is_wrong and "is it to be seen?" in hat.reason
    _, place_ = rhos("a photo of a {concept} wearing a red top hat in the snow")
    assert place_.is_wrong and place_.ratio > 1.1


def test_a_mask_says_where_errors_count(drawn):
    """With a mask the error is the mean over its part: of two halves, the mean is the whole picture's."""
    base, picture = drawn
    halves = [mask((0, 0, 32, 64), size=(64, 64)), mask((32, 0, 64, 64), size=(64, 64))]
    left, right = (frozen_errors(base, picture, 64, half)("a face") for half in halves)
    whole = frozen_errors(base, picture, 64)("a face")
    assert torch.allclose((left + right) / 2, whole, rtol=1e-4) and not torch.allclose(left, right)


# --- the verdict ------------------------------------------------------------------------------------------------------
WRONG, HELPS = Rho(1.3, 0.1), Rho(0.9, 0.02)
SAME, TIED = Placement(0.95, 0.9), Placement(0.9, 0.1)


@pytest.mark.parametrize(
    ("role", "critic", "placement", "found", "may_drop", "status"),
    [
        ("subject", "A", None, None, True, "drop"),
        ("subject", "A", None, None, False, "look"),  # a user's text
        ("subject", "B", None, None, True, "look"),
        ("subject", None, None, None, True, "look"),
        ("unsure", "A", None, None, True, "look"),
        ("worn", "A", None, None, True, "look"),
        ("worn", "F", None, None, True, "look"),
        ("worn", "B", TIED, HELPS, True, "keep"),
        ("thing", None, SAME, None, True, "look"),
        ("thing", "C", None, WRONG, True, "look"),
        ("state", "D", None, None, True, "keep"),
    ],
)
def test_the_verdict(role, critic, placement, found, may_drop, status):
    verdict = judge(Phrase("x", 0, 1, role), critic, placement, found, may_drop=may_drop)
    assert verdict.status == status and verdict.line().startswith(f"{status}  x: by the words, ")
    assert len(verdict.reasons) == 1 + sum(each is not None for each in (critic, placement, found))
