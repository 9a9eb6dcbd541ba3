"""Break-A-Scene's attention losses by hand, the reader in training, and pictures made out of a scene."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageChops
from tinymodels import CONCEPT_WIDTH, hashed

from singleinsert.adapters.base import NO_ADAPTERS
from singleinsert.concepts import build_concept
from singleinsert.data.collage import make_collection, make_mixes, mirrored
from singleinsert.data.pictures import area_resample
from singleinsert.data.subject import BACKGROUND, Frame, Handle, Subject, TrainingPicture
from singleinsert.errors import InputError
from singleinsert.losses import Attention, BreakAScene, Views
from singleinsert.losses.break_a_scene import attention_term
from singleinsert.models.attention import layers_at
from singleinsert.models.latents import LatentDistribution
from singleinsert.models.loading import load_base_model
from singleinsert.training.draws import draw
from singleinsert.training.prompting import Shown, StepPrompt, UnionSampling
from singleinsert.training.step import EncodedPicture, masks_of, training_step
from singleinsert.training.texts import ConceptSet, PromptBook, StepConditions

SIDE = 16
FRAME = Frame.whole((32, 32))


def mask_of(share: float, start: float = 0.0) -> torch.Tensor:
    """(16, 16), its first rows from ``start`` on, ``share`` of them."""
    mask = torch.zeros(SIDE, SIDE)
    mask[round(start * SIDE) : round((start + share) * SIDE)] = 1
    return mask


def attention(maps, masks, named=None, rest=None) -> Attention:
    maps, masks = torch.stack(maps)[None], torch.stack(masks)[None]
    named = torch.ones(1, maps.shape[1]) if named is None else torch.tensor([named])
    rest = torch.zeros(1, SIDE, SIDE) if rest is None else rest[None]
    return Attention(maps, rest, masks, named)


def spike() -> torch.Tensor:
    one = torch.zeros(SIDE, SIDE)
    one[0, 0] = 0.3
    return one


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (0.01 * mask_of(0.25), 0.0),  # looked at hardly at all, in the right shape: nothing to complain of
        (torch.full((SIDE, SIDE), 0.2), 0.75),  # flat: (1 - 0)^2 on all but the mask's quarter
        (spike(), 0.25 - 1 / 256),  # one cell inside: the rest of the mask is missed
        (0.5 * mask_of(0.125, start=0.5), 0.25 + 0.125),  # flat on another object
    ],
)
def test_the_papers_form_of_the_attention_loss(found, expected):
    loss = attention_term(attention([found], [mask_of(0.25)]), "mse_max")
    assert loss.tolist() == pytest.approx([expected])


def test_handles_compete_in_the_cross_entropy():
    # inside the first mask: q = 0.3 / (0.3 + 0.1 + 0.2); inside the second: q = 0.6 / (0.6 + 0.3 + 0.2)
    first, second = mask_of(0.25), mask_of(0.25, start=0.5)
    maps = [torch.full((SIDE, SIDE), 0.3), 0.1 + 0.5 * second]
    rest = torch.full((SIDE, SIDE), 0.2)
    loss = attention_term(attention(maps, [first, second], rest=rest), "cross_entropy")
    expected = -(np.log(0.3 / 0.6) + np.log(0.6 / 1.1)) / 2
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    # a handle that is not named competes with nobody, and is not judged: q = 0.3 / (0.3 + 0.2)
    alone = attention_term(attention(maps, [first, second], named=[1.0, 0.0], rest=rest), "cross_entropy")
    assert alone.item() == pytest.approx(-np.log(0.3 / 0.5), rel=1e-5)


def test_mass_wants_attention_on_the_subject_and_some_of_it():
    # all of it inside at 0.05: (1 - 1)^2 + (0.1 - 0.05) / 0.1
    assert attention_term(attention([0.05 * mask_of(0.25)], [mask_of(0.25)]), "mass").item() == pytest.approx(0.5)
    # flat at 0.4: a quarter of the mass inside, (1 - 1/4)^2, and enough of it
    flat = torch.full((SIDE, SIDE), 0.4)
    assert attention_term(attention([flat], [mask_of(0.25)]), "mass").item() == pytest.approx(0.5625)


def test_terms_are_singleinserts_and_the_attentions():
    views = Views(
        torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2), None, None, torch.full((1, 1, 2, 2), 0.5), torch.ones(1),
        attention=attention([torch.full((SIDE, SIDE), 0.2)], [mask_of(0.25)]),
    )  # fmt: skip
    objective = BreakAScene(background_weight=0.0, attention_weight=0.01)
    terms = objective.concept_terms(views)
    assert {name: term.item() for name, term in terms.items()} == pytest.approx(
        {"foreground": 0.5, "attention": 0.0075}
    )
    assert objective.needs_attention and not objective.needs_frozen
    assert not BreakAScene(attention_weight=0.0).needs_attention


def test_the_level_nearest_to_a_quarter_is_read(tiny_sd):
    from diffusers import UNet2DConditionModel

    from singleinsert.models.bundled import ASSETS

    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(ASSETS / "sd1" / "unet"))
    # SD: 16 x 16 of 64 x 64 is in the third down block and the second up block: 2 + 3 layers, as the paper's code reads
    layers = layers_at(unet, (64, 64), 4)
    assert len(layers) == 5 and all(name.startswith(("down_blocks.2", "up_blocks.1")) for name in layers)
    assert layers_at(unet, (96, 96), 4) == layers  # 24 x 24 at 768 px
    assert len(layers_at(load_base_model(tiny_sd).unet, (16, 16), 4)) == 3  # only its first level has cross-attention
    unet.down_blocks, unet.up_blocks = torch.nn.ModuleList(), torch.nn.ModuleList()
    with pytest.raises(InputError, match="no cross-attention layer"):
        layers_at(unet, (64, 64), 4)


# the step


def scene_step(model, prompts, objective, batch_of_draws, concepts):
    masks = {}
    for i, name in enumerate(("cat", "cup")):
        masks[name] = torch.zeros(1, 1, SIDE, SIDE)
        masks[name][..., 8 * i : 8 * i + 5, 2:9] = 1
    latents = LatentDistribution(hashed((1, 4, SIDE, SIDE), 1), 0.1 * hashed((1, 4, SIDE, SIDE), 2).abs())
    picture = EncodedPicture(latents, masks, FRAME, masks)
    book = PromptBook(model, concepts, {"cat": "cat", "cup": "cup"})
    conditions = StepConditions(book, concepts, NO_ADAPTERS, prompts, [FRAME], tunes_text=False)
    found = {}
    for terms in training_step(batch_of_draws, prompts, [picture], conditions, model, NO_ADAPTERS, objective):
        torch.stack([term.sum() for term in terms.values()]).sum().backward()
        found |= {name: term.detach() for name, term in terms.items()}
    conditions.backward()
    return found


def scene_concepts():
    def build(name):
        return build_concept(
            "vector", placeholder=f"<{name}>", num_vectors=1, widths={"text_encoder": CONCEPT_WIDTH},
            class_embedding=None, pixels=None, generator=torch.Generator().manual_seed(len(name)), init_std=1.0,
        )  # fmt: skip

    return ConceptSet({"cat": build("cat"), "cup": build("cup")})


CAT = StepPrompt(0, ("cat",), "a photo of a <cat> cat", "a photo of a cat", "a photo of a cat")
BOTH = StepPrompt(
    0, ("cup", "cat"), "a photo of a <cup> cup and a <cat> cat", "a photo of a cup and a cat",
    "a photo of a cup and a cat",
)  # fmt: skip


@pytest.mark.parametrize("form", ["mse_max", "cross_entropy", "mass"])
def test_a_samples_terms_do_not_depend_on_the_batch_and_only_named_handles_move(make_tiny_sd, form):
    model = load_base_model(make_tiny_sd())
    objective = BreakAScene(attention_weight=1.0, attention_loss=form)
    shape = (4, SIDE, SIDE)
    both, alone = scene_concepts(), scene_concepts()
    together = scene_step(model, [CAT, BOTH, BOTH], objective, draw(model.schedule, shape, 0, "s", range(3)), both)
    single = scene_step(model, [CAT], objective, draw(model.schedule, shape, 0, "s", range(1)), alone)
    assert set(together) == {"foreground", "background", "attention"}
    for name, term in single.items():
        assert term.item() == pytest.approx(together[name][0].item(), rel=1e-4), name
    assert alone["cat"].weight.grad.abs().sum() > 0 and alone["cup"].weight.grad is None
    assert both["cup"].weight.grad.abs().sum() > 0


def test_the_attention_loss_keeps_its_gradient_under_gradient_checkpointing(make_tiny_sd):
    grads, objective = [], BreakAScene(foreground_weight=0.0, background_weight=0.0, attention_weight=1.0)
    for checkpointing in (False, True):
        model, concepts = load_base_model(make_tiny_sd()), scene_concepts()
        if checkpointing:
            model.enable_gradient_checkpointing()
            model.unet.train()
        scene_step(model, [BOTH], objective, draw(model.schedule, (4, SIDE, SIDE), 0, "s", range(1)), concepts)
        grads.append(concepts["cat"].weight.grad)
    assert grads[0].abs().sum() > 0 and torch.allclose(grads[0], grads[1], rtol=1e-5, atol=1e-9)


def test_masks_are_the_union_of_the_named_subjects():
    fine = {"cat": torch.zeros(1, 1, 8, 8), "cup": torch.zeros(1, 1, 8, 8)}
    fine["cat"][..., :3], fine["cup"][..., 3:5] = 1, 1  # they meet within a latent pixel of two
    a, b = (area_resample(each, (4, 4)) for each in fine.values())
    picture = EncodedPicture(LatentDistribution(a, a), {"cat": a, "cup": b}, FRAME, fine)
    assert torch.equal(masks_of([picture], [CAT, CAT]), a)  # one for all samples
    found = masks_of([picture], [CAT, BOTH])
    assert found.shape == (2, 1, 4, 4) and torch.equal(found[:1], a)
    assert a[0, 0, 0].tolist() == [1, 0.5, 0, 0] and b[0, 0, 0].tolist() == [0, 0.5, 0.5, 0]
    assert found[1, 0, 0].tolist() == [1, 1, 0.5, 0]  # shares of a latent pixel add up


def test_the_union_of_masks_that_overlap_is_no_larger_than_they_are():
    """data.overlap "keep": two masks of the same half of a latent pixel cover that half, not all of it."""
    half = torch.zeros(1, 1, 8, 8)
    half[..., :3] = 1
    small = area_resample(half, (4, 4))
    picture = EncodedPicture(
        LatentDistribution(small, small), {"cat": small, "cup": small}, FRAME, {"cat": half, "cup": half.clone()}
    )
    assert torch.equal(masks_of([picture], [BOTH]), small) and small[0, 0, 0].tolist() == [1, 0.5, 0, 0]


# union sampling


def test_subsets_come_as_often_as_the_paper_says():
    """P(S) = 1 / (N C(N, k)): of three, each single 1/9, each pair 1/9, all three 1/3."""
    names = ("a", "b", "c")
    handles = {name: Handle(name, name, f"<{name}>") for name in names}
    sampling = UnionSampling(0, handles, (Shown(names),))
    seen: dict[frozenset[str], int] = {}
    count = 9000
    for sample in range(count):
        asked = sampling.at("stage1", sample)
        seen[frozenset(asked.handles)] = seen.get(frozenset(asked.handles), 0) + 1
    assert sampling.at("stage1", 7) == sampling.at("stage1", 7) != sampling.at("stage2", 7)
    for subset, times in seen.items():
        p = 1 / 3 if len(subset) == 3 else 1 / 9
        assert abs(times / count - p) < 4 * (p * (1 - p) / count) ** 0.5, subset
    assert len(seen) == 7


def test_a_collage_is_named_whole_and_drawn_by_its_weight():
    handles = {name: Handle(name, "cat", f"<{name}>") for name in ("a", "b")}
    sampling = UnionSampling(0, handles, (Shown(("a", "b"), 0.7), Shown(("b", "a"), 0.3, whole=True)))
    asked = [sampling.at("stage1", sample) for sample in range(3000)]
    assert abs(sum(each.picture for each in asked) / 3000 - 0.3) < 0.035  # 4 standard errors of a share of 0.3
    assert all({*each.handles} == {"a", "b"} for each in asked if each.picture == 1)
    assert asked[0].class_prompt in ("a photo of a cat", "a photo of a cat and a cat")


# pictures made out of a scene


def scene_picture() -> TrainingPicture:
    image = Image.new("RGB", (64, 64), (10, 200, 10))
    masks = {}
    for name, box, colour in (("cat", (4, 20, 24, 50), (200, 0, 0)), ("cup", (36, 10, 56, 30), (0, 0, 200))):
        masks[name] = Image.new("L", (64, 64))
        masks[name].paste(255, box)
        image.paste(colour, box)
    masks[BACKGROUND] = ImageChops.invert(ImageChops.lighter(masks["cat"], masks["cup"]))
    return TrainingPicture(
        image, FRAME, tuple(Subject(name, name, mask, np.asarray(mask).mean() / 255) for name, mask in masks.items())
    )


COLOURS = {"cat": (200, 0, 0), "cup": (0, 0, 200)}


def test_a_mirrored_picture_is_mirrored_with_its_masks():
    picture = scene_picture()
    other = mirrored(picture)
    assert np.array_equal(np.asarray(other.image), np.asarray(picture.image)[:, ::-1])
    assert np.array_equal(np.asarray(other.subjects[0].mask), np.asarray(picture.subjects[0].mask)[:, ::-1])


def test_a_collection_keeps_its_subjects_where_they_are_on_one_colour():
    made = make_collection(scene_picture(), 20, random.Random(0))
    assert {len(part.subjects) for part in made} == {1, 2, 3}
    for part in made:
        pixels = np.asarray(part.image)
        union = np.max([np.asarray(subject.mask) for subject in part.subjects], axis=0)
        assert len({tuple(pixel) for pixel in pixels[union == 0]}) <= 1
        for subject in part.subjects:
            if subject.handle in COLOURS:
                assert {tuple(p) for p in pixels[np.asarray(subject.mask) == 255]} == {COLOURS[subject.handle]}


def test_a_subject_as_high_as_the_picture_keeps_its_shape():
    picture = scene_picture()
    mask = Image.new("L", (64, 64))
    mask.paste(255, (20, 2, 40, 62))  # 20 x 60 of 64
    tall = replace(picture, subjects=(replace(picture.subjects[0], mask=mask), picture.subjects[1]))
    boxes = [s.mask.getbbox() for part in make_mixes(tall, 60, random.Random(1)) for s in part.subjects[:1]]
    whole = [(right - left, bottom - top) for left, top, right, bottom in boxes if bottom - top >= 60]
    assert whole and all(abs(height / width - 3) < 0.2 for width, height in whole)


def test_mixes_move_subjects_and_keep_exact_visible_masks():
    made = make_mixes(scene_picture(), 30, random.Random(0))
    boxes = set()
    for part in made:
        pixels = np.asarray(part.image).astype(int)
        for subject in part.subjects:
            mask = np.asarray(subject.mask)
            assert subject.share == pytest.approx(mask.mean() / 255)
            if subject.handle == BACKGROUND:
                continue
            boxes.add((subject.handle, subject.mask.getbbox()))
            inside = pixels[mask == 255]
            assert np.abs(inside - COLOURS[subject.handle]).max() <= 2
    assert len(boxes) > 30  # no place twice
    assert any(part.handles[-1] == BACKGROUND for part in made) and any(BACKGROUND not in p.handles for p in made)
    again = make_mixes(scene_picture(), 30, random.Random(0))
    assert all(a.image.tobytes() == b.image.tobytes() for a, b in zip(made, again, strict=True))
