"""The metrics against hand-worked values: encoders that are arithmetic, so that every number has its algebra."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from singleinsert.errors import InputError
from singleinsert.metrics import scores
from singleinsert.metrics.regions import FILL, centred, generated_masks, mask_array, only


def flat(*colour: int, size: tuple[int, int] = (8, 8)) -> Image.Image:
    return Image.new("RGB", size, colour)


class MeanColour:
    """Embeds a picture as its mean colour, divided by its length; a prompt "3 4 0" as those numbers."""

    name = "mean colour"

    def images(self, pictures):
        means = [np.asarray(p.convert("RGB"), np.float64).reshape(-1, 3).mean(0) for p in pictures]
        return F.normalize(torch.tensor(np.array(means)).float(), dim=-1)

    def texts(self, prompts):
        return F.normalize(torch.tensor([[float(v) for v in p.split()] for p in prompts]), dim=-1)


class MeanDifference:
    name = "mean difference"

    def __call__(self, a, b):
        pairs = zip(a, b, strict=True)
        return torch.tensor([float(np.abs(np.asarray(x, float) - np.asarray(y, float)).mean()) for x, y in pairs])


def half_mask(size: int = 8) -> np.ndarray:
    """The left half is the subject."""
    mask = np.zeros((size, size), np.float32)
    mask[:, : size // 2] = 1
    return mask


def halves(left: tuple[int, int, int], right: tuple[int, int, int], size: int = 8) -> Image.Image:
    picture = flat(*right, size=(size, size))
    picture.paste(left, (0, 0, size // 2, size))
    return picture


def test_whole_similarity_is_the_cosine():
    # (3, 4, 0) . (1, 0, 0) / 5 = 0.6; (0, 0, 1) . (1, 0, 0) = 0
    found = scores.image_similarity(MeanColour(), [flat(30, 40, 0), flat(0, 0, 9), flat(7, 0, 0)], flat(100, 0, 0))
    assert found == pytest.approx([0.6, 0.0, 1.0], abs=1e-6)


def test_a_region_greys_the_other_one_in_both_pictures():
    picture, reference = halves((200, 0, 0), (0, 50, 250)), halves((0, 200, 0), (90, 90, 0))
    kwargs = {"masks": [half_mask()], "reference_mask": half_mask()}

    def cosine(a, b):
        return float(np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b))

    grey = np.full(3, FILL)
    # mean colour of half subject and half grey; the factor 1/2 cancels in the cosine
    expected = cosine(np.array([200, 0, 0]) + grey, np.array([0, 200, 0]) + grey)
    found = scores.image_similarity(MeanColour(), [picture], reference, region="foreground", **kwargs)
    assert found == pytest.approx([expected], abs=1e-6)
    expected = cosine(np.array([0, 50, 250]) + grey, np.array([90, 90, 0]) + grey)
    found = scores.image_similarity(MeanColour(), [picture], reference, region="background", **kwargs)
    assert found == pytest.approx([expected], abs=1e-6)


@pytest.mark.parametrize("region", ["foreground", "background"])
def test_pixels_of_the_masked_out_region_change_nothing(region):
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    other = values.copy()
    hidden = (half_mask() > 0) == (region == "background")
    other[hidden] = rng.integers(0, 256, (hidden.sum(), 3))
    assert (other != values).any()
    a, b = (only(Image.fromarray(v), half_mask(), region) for v in (values, other))
    assert a.tobytes() == b.tobytes()
    # and what is left is as it was
    assert (np.asarray(a)[~hidden] == values[~hidden]).all() and (np.asarray(a)[hidden] == FILL).all()


def test_a_soft_mask_mixes():
    # 0.25 * 200 + 0.75 * 128 = 146
    mask = np.full((8, 8), 0.25, np.float32)
    assert only(flat(200, 200, 200), mask, "foreground").getpixel((3, 3)) == (146, 146, 146)


def test_where_no_subject_was_found_the_foreground_scores_zero_and_the_background_is_the_whole():
    reference, picture = halves((0, 200, 0), (90, 90, 0)), flat(90, 90, 64)
    kwargs = {"masks": [None, half_mask(), np.zeros((8, 8))], "reference_mask": half_mask()}
    pictures = [picture, reference, picture]
    assert scores.image_similarity(MeanColour(), pictures, reference, region="foreground", **kwargs) == (
        pytest.approx([0.0, 1.0, 0.0], abs=1e-6)
    )
    found = scores.image_similarity(MeanColour(), pictures, reference, region="background", **kwargs)
    whole = scores.image_similarity(MeanColour(), [picture], only(reference, half_mask(), "background"))
    assert found == pytest.approx([whole[0], 1.0, whole[0]], abs=1e-6)
    none = {"masks": [None], "reference_mask": half_mask()}
    assert scores.image_similarity(MeanColour(), [picture], reference, region="foreground", **none) == [0.0]


def test_text_similarity_pairs_each_picture_with_its_prompt():
    pictures = [flat(30, 40, 0), flat(0, 0, 5)]
    assert scores.text_similarity(MeanColour(), pictures, ["1 0 0", "0 0 2"]) == pytest.approx([0.6, 1.0], abs=1e-6)
    assert scores.prompt_similarity(MeanColour(), pictures, ["0 1 0", "1 0 0"]) == pytest.approx([0.8, 0.0], abs=1e-6)
    assert scores.text_alignment(MeanColour(), pictures[:1], ["0 1 0"]) == pytest.approx([0.8], abs=1e-6)


def test_diversity_is_the_mean_over_pairs():
    # |10 - 20|, |10 - 50|, |20 - 50| = 10, 40, 30
    assert scores.diversity(MeanDifference(), [flat(v, v, v) for v in (10, 20, 50)]) == pytest.approx(80 / 3)
    assert scores.diversity(MeanDifference(), [flat(7, 7, 7)] * 4) == 0.0


def test_editing_success_scores_each_target():
    verdicts = [[True], [False], [True, True], [True, False], [False, False]]
    assert scores.editing_success(verdicts) == [1.0, 0.0, 1.0, 0.5, 0.0]


def test_sid_compares_the_whole_picture_with_segments_of_the_reference():
    reference, mask = halves((200, 0, 0), (0, 0, 200)), half_mask()
    picture = flat(60, 80, 0)
    segment = np.asarray(centred(reference, mask), float).reshape(-1, 3).mean(0)
    expected = float(np.array([0.6, 0.8, 0]) @ segment / np.linalg.norm(segment))
    found = scores.subject_alignment(MeanColour(), [picture], [(reference, mask)])
    assert found == pytest.approx([expected], abs=1e-6)
    # half (0, 0, 200), half grey: the mean is (64, 64, 164); 1 - (0.6 * 64 + 0.8 * 64) / |(64, 64, 164)|
    expected = 1 - 1.4 * 64 / np.linalg.norm([64, 64, 164])
    both = scores.non_subject_disentanglement(MeanColour(), [picture], [(reference, mask)] * 2)
    assert both == pytest.approx([expected], abs=1e-6)


def test_sid_averages_over_references():
    pairs = [(flat(200, 0, 0), half_mask()), (flat(0, 200, 0), half_mask())]
    one = [scores.subject_alignment(MeanColour(), [flat(9, 1, 1)], [pair])[0] for pair in pairs]
    assert scores.subject_alignment(MeanColour(), [flat(9, 1, 1)], pairs) == pytest.approx([sum(one) / 2])


def test_the_subject_segment_is_centred_and_fills_the_square():
    picture, mask = flat(0, 0, 0, size=(40, 40)), np.zeros((40, 40), np.float32)
    mask[2:12, 30:35] = 1
    square = np.asarray(centred(picture, mask))
    assert square.shape == (12, 12, 3)  # 10 pixels high and a tenth of it on both sides
    rows, columns = np.nonzero((square == 0).all(-1))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (1, 10, 3, 7)


def test_identity_similarity_has_a_column_for_each_concept():
    reference = halves((200, 0, 0), (0, 0, 200))
    left, right = half_mask(), 1 - half_mask()
    swapped = halves((0, 0, 200), (200, 0, 0))
    found = scores.identity_similarity(
        MeanColour(), [reference, swapped], reference, masks=[[left, right], [right, None]],
        reference_masks=[left, right],
    )  # fmt: skip
    assert found[0] == pytest.approx([1, 1], abs=1e-6)
    assert found[1] == pytest.approx([1, 0], abs=1e-6)  # its first concept is on the right, the second was not found


def test_mask_arrays_keep_the_area():
    mask = Image.new("L", (4, 4), 0)
    mask.paste(255, (0, 0, 2, 4))
    assert mask_array(mask).tolist() == [[1, 1, 0, 0]] * 4
    # two of three columns in the first half, none in the second: columns 0..1.33 are covered, 1.33..2.67 by half
    assert mask_array(mask, (3, 3))[0] == pytest.approx([1, 0.5, 0])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: scores.image_similarity(MeanColour(), [flat(1, 2, 3)], flat(1, 2, 3), region="foreground"), "masks"),
        (
            lambda: scores.image_similarity(MeanColour(), [flat(1, 2, 3)], flat(1, 2, 3), region="sky"),  # type: ignore[arg-type]
            "sky",
        ),
        (lambda: scores.text_similarity(MeanColour(), [flat(1, 2, 3)], []), "1 pictures but 0 prompts"),
        (lambda: scores.diversity(MeanDifference(), [flat(1, 2, 3)]), "two samples"),
        (lambda: scores.editing_success([[True], []]), "target"),
        (lambda: only(flat(1, 2, 3), np.zeros((4, 8)), "foreground"), "does not fit"),
        (lambda: only(flat(1, 2, 3), np.full((8, 8), 2.0), "foreground"), "between 0 and 1"),
        (lambda: only(flat(1, 2, 3), np.full((8, 8), np.nan), "foreground"), "between 0 and 1"),
        (lambda: centred(flat(1, 2, 3), np.zeros((8, 8))), "empty"),
        (lambda: scores.subject_alignment(MeanColour(), [flat(1, 2, 3)], []), "reference"),
        (
            lambda: scores.identity_similarity(MeanColour(), [flat(1, 2, 3)], flat(1, 2, 3), masks=[[None]],
                                                reference_masks=[half_mask()] * 2),
            "2 masks",
        ),
    ],
)  # fmt: skip
def test_bad_input_gets_one_line(call, said):
    with pytest.raises(InputError, match=said) as error:
        call()
    assert "\n" not in str(error.value)


def test_no_pictures_no_numbers():
    assert scores.image_similarity(MeanColour(), [], flat(1, 2, 3)) == []
    assert scores.text_similarity(MeanColour(), [], []) == []
    assert scores.subject_alignment(MeanColour(), [], [(flat(1, 2, 3), half_mask())]) == []


def test_masks_of_generated_pictures_come_from_the_masks_module():
    from testbed.world.scene import Instance, Scene, draw, draw_edits

    edits = draw_edits("cat", random.Random(3))
    scene = Scene((Instance.from_seed(5, "cat"),), (edits,), "beach", "photo", "front", 1)
    drawn = draw(scene)
    found, missing = generated_masks([drawn.image, flat(200, 180, 90, size=(64, 64))], "cat", backend="mini")
    exact = np.asarray(drawn.masks["subject"]) >= 128
    assert found is not None and found.dtype == np.float32 and found.shape == (64, 64)
    assert ((found > 0.5) & exact).sum() / ((found > 0.5) | exact).sum() > 0.8
    assert missing is None


def test_a_backend_without_the_word_says_so_instead_of_finding_nothing():
    with pytest.raises(InputError, match="no word for 'zebra'"):
        generated_masks([flat(1, 2, 3, size=(64, 64))], "zebra", backend="mini")
