"""infer_singleinsert.py --edit as a user meets it."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_infer_cli import main, pixels, read_parameters
from tinyconcepts import make_concept

from singleinsert.edit import STRENGTH, advice, plain_words
from singleinsert.inference.pipeline import ConceptPipeline
from singleinsert.models.loading import load_base_model

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tiny_sd, tmp_path_factory):
    """A photo of 50 x 40 pixels, half of it transparent; masks; a concept."""
    folder = tmp_path_factory.mktemp("edit")
    x, y = np.meshgrid(np.arange(50), np.arange(40))
    photo = Image.fromarray(np.stack([x * 5, y * 6, (x * y) % 200], axis=-1).astype(np.uint8))
    photo.save(folder / "photo.png")
    photo.putalpha(Image.fromarray((x * 5).astype(np.uint8)))
    photo.save(folder / "glass.png")
    for name, box in {"left": (4, 4, 20, 30), "right": (28, 10, 48, 36), "empty": (0, 0, 0, 0)}.items():
        mask = Image.new("L", (50, 40), 0)
        mask.paste(255, box)
        mask.save(folder / f"{name}.png")
    Image.new("L", (40, 50), 255).save(folder / "turned.png")
    make_concept(tiny_sd, "hat", class_word="hat").save(folder / "output" / "hat" / "hat_artifact.safetensors")
    return folder


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


EDIT = ["--concept", "hat", "--edit", "photo.png", "--num_inference_steps", "2"]
LEFT = [*EDIT, "--edit_mask", "left.png", "--prompt", "wearing {hat}"]


def inside(*names):
    return np.max([np.asarray(Image.open(f"{name}.png")) > 0 for name in names], axis=0)


def test_two_regions_at_once(here, capsys):
    both = [*LEFT, "--edit_mask", "right.png", "--prompt", "a tree", "--num_images", "2", "--seed", "5"]
    assert main([*both, "--scheduler", "euler_a", "--edit_strength", "0.9", "--output_dir", "both"]) == 0
    names = ["both/00001-5.png", "both/00002-6.png", "both/edit-00001.png"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == names and "--seed 7" in lines[-1] and "--edit_strength" in lines[-1]
    before, changed = pixels("photo.png"), inside("left", "right")
    for name in names[:2]:
        assert np.array_equal(pixels(name)[~changed], before[~changed])
        assert np.abs(pixels(name) - before)[inside("left")].mean() > 5
        assert np.abs(pixels(name) - before)[inside("right")].mean() > 5
    prompt, _, fields = read_parameters(names[0])
    assert prompt == "wearing hat hat, a tree <lora:hat_lora:1>"
    assert (fields["Denoising strength"], fields["Sampler"], fields["Size"]) == ("0.9", "Euler a", "50x40")
    with Image.open(names[0]) as picture:
        own = json.loads(picture.text["singleinsert"])["edit"]
    assert own == {
        "strength": 0.9, "order": "at_once", "noise": "fixed", "photo": "photo.png",
        "regions": [["left.png", "wearing {hat}"], ["right.png", "a tree"]],
    }  # fmt: skip
    assert pixels(names[2]).shape[1] > 4 * 160  # before, mask, two afters


def test_the_other_order_and_noise_and_a_larger_canvas(here):
    both = [*LEFT, "--edit_mask", "right.png", "--prompt", "a tree"]
    kinds = ([], ["--edit_order", "one_by_one"], ["--edit_noise", "fresh"], ["--width", "48", "--height", "48"])
    for kind in kinds:
        assert main([*both, *kind, "--output_dir", "kinds"]) == 0
    drawn = [pixels(path) for path in sorted(Path("kinds").glob("0*.png"))]
    assert len(drawn) == 4 and not any(np.array_equal(drawn[0], other) for other in drawn[1:])
    assert len(list(Path("kinds").glob("edit-*.png"))) == 4


def test_transparency_stays_but_where_something_is_drawn(here):
    assert main([*LEFT, "--edit", "glass.png", "--output_dir", "glass"]) == 0
    with Image.open("glass/00001-0.png") as got, Image.open("glass.png") as photo:
        new, old = np.asarray(got), np.asarray(photo)
    assert np.array_equal(new[~inside("left")], old[~inside("left")]) and (new[inside("left")][:, 3] == 255).all()


def test_the_best_by_clip(here, monkeypatch):
    """Of three the one that the encoder says: its scores are made so that seed 1 wins, then seed 5."""
    pictures = iter([0.1, 0.9, 0.3, 0.2, 0.1, 0.8])
    monkeypatch.setattr("singleinsert.edit.load_clip", lambda name, device: name)
    monkeypatch.setattr("singleinsert.edit.text_similarity", lambda clip, images, prompts: [next(pictures)])
    assert main([*LEFT, "--num_images", "2", "--edit_best", "3", "--output_dir", "best"]) == 0
    assert sorted(path.name for path in Path("best").glob("0*.png")) == ["00001-1.png", "00002-5.png"]


def test_a_mask_by_word_and_the_best_of_two_in_the_miniature(here, capsys):
    """Nothing is patched: mini-sd finds the face with its own segmenter, and its own CLIP judges."""
    face = ROOT / "examples" / "face.png"
    arguments = ["--pretrained_model_name_or_path", "mini-sd", "--edit", str(face), "--num_inference_steps", "3"]
    asked = ["--edit_class_word", "face", "--prompt", "a photo of a cat", "--edit_best", "2", "--output_dir", "mini"]
    assert main([*arguments, *asked]) == 0
    out = capsys.readouterr().out
    assert "mask: from mini segmenter" in out and "--edit_best" not in out.splitlines()[-1]
    (drawn,) = Path("mini").glob("0*.png")
    changed = np.abs(pixels(drawn) - pixels(face)).max(-1) > 0
    subject = np.asarray(Image.open(ROOT / "examples" / "face_mask.png")) > 0
    assert (changed & subject).sum() > 0.97 * subject.sum()
    assert 1.2 * subject.sum() < changed.sum() < 2.5 * subject.sum()  # grown by a tenth of the side, six pixels
    assert main([*arguments, "--edit_class_word", "cup", "--prompt", "a cup"]) == 2
    assert "give the mask with --edit_mask FILE" in capsys.readouterr().err


def test_prompts_as_an_encoder_without_concepts_reads_them(tiny_sd):
    pipeline = ConceptPipeline(load_base_model(tiny_sd), [make_concept(tiny_sd, "hat", class_word="cap")])
    assert plain_words("a {hat} and * and * cap", pipeline) == "a cap and cap and cap"


def test_advice_where_hardly_anything_changed():
    assert "hardly anything changed (by 2.0 of 255): try --edit_strength 0.9" in advice(0.75, [1.0, 2.0], 0, None)[0]
    assert "try another prompt" in advice(1.0, [1.0], 0, None)[0]
    assert len(advice(STRENGTH, [30.0, 1.0], 0, None)) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*EDIT, "--prompt", "a hat"], "--edit without a place: give --edit_mask FILE"),
        ([*EDIT, "--edit_mask", "left.png"], "mask without a prompt: there are 1 masks and 0 prompts"),
        ([*LEFT, "--edit_mask", "right.png"], "mask without a prompt: there are 2 masks and 1 prompts"),
        ([*LEFT, "--prompt", "a tree"], "prompt without a mask: there are 1 masks and 2 prompts"),
        ([*EDIT, "--edit_mask", "empty.png", "--prompt", "x"], "mask empty.png is empty"),
        ([*EDIT, "--edit_mask", "turned.png", "--prompt", "x"], "turned.png is 40x50 but the picture is 50x40 (turned"),
        ([*EDIT, "--edit_mask", "none.png", "--prompt", "x"], "mask not found: none.png"),
        ([*LEFT, "--edit", "none.png"], "picture not found: none.png"),
        ([*LEFT, "--edit_strength", "0"], "strength of 0 cannot be"),
        ([*LEFT, "--edit_strength", "1.5"], "strength of 1.5 cannot be"),
        ([*LEFT, "--edit_best", "1"], "--edit_best 1: the best of at least 2"),
        ([*LEFT, "--num_images", "0"], "--num_images 0"),
        ([*LEFT, "--width", "4"], "a picture of 4 pixels"),
        (
            [*EDIT, "--edit_mask", "left.png", "--prompt", "{hut}"],
            "{hut} in the prompt '{hut}' names no loaded",
        ),
        ([*LEFT, "--grid"], "--grid does not go with --edit: before, mask and after come on a sheet anyway"),
        ([*LEFT, "--attention_maps"], "--attention_maps does not go with --edit"),
        ([*LEFT, "--prompt_list", "views"], "--prompt_list does not go with --edit"),
        (["--concept", "hat", "--edit_mask", "left.png"], "--edit_mask is for an edit: give the photo with --edit"),
        (["--concept", "hat", "--edit_class_word", "cat"], "--edit_class_word is for an edit"),
        (["--concept", "hat", "--edit_strength", "0"], "--edit_strength is for an edit"),
    ],
)
def test_bad_input_is_one_line(arguments, message, here, capsys):
    assert main(arguments) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and message in lines[0]
    assert not Path("output/pictures").exists()
