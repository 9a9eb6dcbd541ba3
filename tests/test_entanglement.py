"""The look after training: its measures by hand, what it says, where its result goes; and the command."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal

import pytest
import torch
from PIL import Image
from runs import Said, small_settings, small_values
from test_train_script import command_line

import singleinsert.training.explained as explained
import singleinsert.training.look as look_module
import singleinsert.training.run as run_module
import train_singleinsert
from singleinsert import check
from singleinsert.artifact import Artifact
from singleinsert.models.bundled import MINI_SD
from singleinsert.training.entanglement import (
    Entanglement,
    Reference,
    advise,
    measure,
    mirror,
    returned_background,
    returned_pose,
)
from singleinsert.training.explained import Phrasing, kept, phrase_passes, phrasings_of, returned_phrase
from singleinsert.training.run import train


def left_half(height: int = 4, width: int = 8) -> torch.Tensor:
    """The mask of a subject in the left half, (1, 1, h, w)."""
    mask = torch.zeros(1, 1, height, width)
    mask[..., : width // 2] = 1
    return mask


def reference_of(latents, mask):
    """Of latents that are mirrored as pictures are."""
    return Reference(latents, mask, mirror(latents, mask), mask * mirror(mask, mask))


# --- the measures -----------------------------------------------------------------------------------------------------
def test_the_background_that_returns_is_the_share_of_the_distance_that_is_gone():
    reference = reference_of(torch.ones(1, 2, 4, 8), left_half())
    plain, half = torch.zeros(3, 2, 4, 8), torch.full((3, 2, 4, 8), 0.5)
    assert returned_background(plain, plain, reference) == 0
    assert returned_background(torch.ones(3, 2, 4, 8), plain, reference) == 1
    assert returned_background(half, plain, reference) == 0.75  # 1 - 0.5^2 / 1^2
    assert returned_background(-half, plain, reference) == -1.25  # 1 - 1.5^2: further away than the class word's
    half[..., :4] = 100  # the subject is no part of it
    assert returned_background(half, plain, reference) == 0.75
    assert returned_background(half, plain, reference_of(torch.ones(1, 2, 4, 8), torch.ones(1, 1, 4, 8))) is None


def test_mirrored_at_the_middle_of_the_mask():
    columns = torch.arange(8.0).expand(1, 1, 4, 8)
    whole = mirror(columns, torch.ones(1, 1, 4, 8))
    assert whole[0, 0, 0].tolist() == [7, 6, 5, 4, 3, 2, 1, 0]
    # the mask's middle is 1.5: column i comes from column 3 - i
    assert mirror(columns, left_half())[0, 0, 0].tolist() == [3, 2, 1, 0, 0, 0, 0, 0]
    right = mirror(columns, 1 - left_half())[0, 0, 0]  # middle 5.5: from column 11 - i
    assert right.tolist() == [0, 0, 0, 0, 7, 6, 5, 4]


def test_the_pose_that_returns_is_a_share_of_how_one_sided_the_picture_is():
    ramp = torch.arange(8.0).expand(1, 1, 4, 8)
    reference, even = reference_of(ramp, torch.ones(1, 1, 4, 8)), (torch.arange(8.0) - 3.5).square().expand(2, 1, 4, 8)
    # corr(r, mirrored) = -1, so that side(r) = 2; an even picture has the same correlation with both
    assert returned_pose(ramp.expand(2, 1, 4, 8), even, reference) == pytest.approx(1)
    assert returned_pose(ramp.flip(-1).expand(2, 1, 4, 8), even, reference) == pytest.approx(-1)
    both = torch.cat([ramp, ramp.flip(-1)])
    assert returned_pose(both, even, reference) == pytest.approx(0, abs=1e-6)
    assert returned_pose(both[:1], both[1:], reference) == pytest.approx(2)  # from the other side to this one
    assert returned_pose(both, even, reference_of(even[:1], torch.ones(1, 1, 4, 8))) is None


def test_a_reference_is_encoded_from_its_own_and_from_the_mirrored_picture():
    """An encoder that tells left from right: its latents mirrored are not those of the mirrored picture."""
    pixels, fine = torch.arange(16.0).expand(1, 3, 8, 16).clone(), torch.ones(1, 1, 8, 16)
    fine[..., 12:] = 0

    def encode(x):  # brightness, and how it grows to the right
        pairs = x[:, :1, ::2].unflatten(-1, (8, 2))
        return torch.cat([pairs.mean(-1), pairs[..., 1] - pairs[..., 0]], dim=1)

    found = Reference.of(pixels, fine, encode(pixels), encode)
    # the middle is 5.5: column i is column 11 - i, and 0 where there is none; it grows to the left
    assert found.mirrored[0, 0, 0].tolist() == [10.5, 8.5, 6.5, 4.5, 2.5, 0.5, 0, 0]
    assert found.mirrored[0, 1, 0].tolist() == [-1] * 6 + [0] * 2
    assert found.where[0, 0, 0].tolist() == found.mask[0, 0, 0].tolist() == [1] * 6 + [0] * 2


def test_of_several_photos_the_one_that_came_back_most_counts():
    plain, drawn = torch.zeros(3, 2, 4, 8), torch.ones(3, 2, 4, 8)
    photos = [reference_of(torch.full((1, 2, 4, 8), value), left_half()) for value in (-1.0, 1.0)]
    assert [returned_background(drawn, plain, photo) for photo in photos] == [-3, 1]
    found = measure("cat", drawn, plain, photos)
    assert (found.background, found.pictures, found.learnt) == (1, 3, ("background",))
    assert found.pose is None  # a flat photo shows no side
    assert found.numbers() == {"pictures": 3, "background": 1, "pose": None, "phrases": {}, "learnt": ["background"]}


def test_what_is_said_and_what_to_do():
    assert Entanglement("cat", 4, 0.712, -0.2).shares == "background 71%, pose 0%"
    hat = Entanglement("cat", 4, None, None, {"wearing a hat": 0.9, "on sand": 0.1})
    assert hat.shares == '"wearing a hat" 90%, "on sand" 10%' and hat.learnt == ("wearing a hat",)
    assert advise((), described=False, masked=True) == ""
    said = advise(("background",), described=False, masked=False)
    assert "seems the picture's background:" in said and "objective singleinsert" in said and "--scene_words" in said
    said = advise(("background", "pose"), described=True, masked=True)
    assert (
        "seem the picture's background and pose:" in said
        and "--scene_words" not in said
        and "the mask holds more" in said
    )
    said = advise(("pose",), described=False, masked=True)
    assert "the side it is seen from" in said and "mask" not in said and said.endswith("a lower weight (0.7)")
    said = advise(("wearing a hat",), described=True, masked=True)
    assert said.startswith('Learnt with the subject seems "wearing a hat": cut what is named out of the mask')
    assert "mask" not in advise(("wearing a hat",), described=True, masked=False)  # of a style, or of a full image


# --- phrases of a description -----------------------------------------------------------------------------------------
def test_each_phrase_is_asked_about_alone_and_once():
    texts = ["left side view of a {concept} wearing a red cap, on the beach", "a {concept} on the beach and a cup", ""]
    found = phrasings_of(texts, "cat")
    assert [(each.text, each.said, each.unsaid, each.picture) for each in found] == [
        ("left side view of", "left side view of a cat", "a cat", 0),
        ("wearing a red cap", "a cat wearing a red cap", "a cat", 0),
        ("on the beach", "a cat, on the beach", "a cat", 0),
        ("a cup", "a cat and a cup", "a cat", 1),
    ]
    # four phrases with three pictures of each kind: five prompts, "a cat" of two training pictures; four draws
    assert phrase_passes(found, 3) == 4 * (2 * 3 * 5 + 6) and phrase_passes((), 3) == 0
    assert len(phrasings_of(["a {concept}" + "".join(f", by a thing{k}" for k in range(9))], "cat")) == 4


def test_a_phrase_returns_by_the_error_that_it_takes_away():
    asked: list[tuple[float, str]] = []

    def errors(latents: torch.Tensor, prompt: str) -> torch.Tensor:
        """With the phrase a picture of brightness x has x less of the error 1."""
        asked.append((float(latents.mean()), prompt))
        return 1 - latents.mean((1, 2, 3)) * (prompt == "a cat in a hat")

    hat = Phrasing("in a hat", "a cat in a hat", "a cat", 0)
    drawn, plain, reference = (torch.full((2, 1, 2, 2), value) for value in (0.5, 0.1, 0.9))
    # shares 0.5, 0.1 and 0.9: (0.5 - 0.1) / (0.9 - 0.1)
    assert returned_phrase(errors, hat, drawn, plain, reference) == pytest.approx(0.5)
    assert returned_phrase(errors, hat, plain, plain, reference) == 0
    assert returned_phrase(errors, hat, drawn, plain, plain + 0.01) is None  # nothing can be told by it
    asked.clear()
    once = kept(errors)
    assert torch.equal(once(drawn, "a cat"), once(drawn, "a cat")) and len(asked) == 1


# --- in a run ---------------------------------------------------------------------------------------------------------
def events(folder, name):
    lines = (folder / "logs" / name / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def two_concepts(folder):
    """Masks of two things in the picture of :func:`runs.draw_subject`."""
    paths = []
    for name, box in (("left", (10, 8, 34, 56)), ("right", (46, 8, 70, 56))):
        mask = Image.new("L", (80, 64), 0)
        mask.paste(255, box)
        paths.append(str(folder / f"{name}.png"))
        mask.save(paths[-1])
    return {
        "data__mask": paths, "data__class_word": ["cat", "dog"], "data__resolution": 64, "concept__type": "vector"
    }  # fmt: skip


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl", "several"])
def test_the_result_goes_to_log_events_artifact_and_costs_what_it_says(
    tmp_path, make_tiny_sd, make_tiny_sdxl, monkeypatch, family
):
    several = family == "several"  # on mini-sd, which knows "<cat>"
    model = MINI_SD if several else make_tiny_sdxl() if family == "sdxl" else make_tiny_sd(family=family)
    more = two_concepts(tmp_path) if several else {"data__description": ["a {concept} wearing a hat, in the snow"]}
    settings = small_settings(
        tmp_path, model, run__check="on", stage1__steps=1, stage2__steps=1, run__output_name="zork", **more
    )
    lines, seen, results = [], [], []

    def counted(run, loop, material):
        hook = run.model.denoiser.register_forward_pre_hook(
            lambda module, args, kwargs: seen.append(len(args[0] if args else kwargs["sample"])), with_kwargs=True
        )
        results.append(look_module.look_after(run, loop, material))
        hook.remove()
        return results[0]

    monkeypatch.setattr(run_module, "look_after", counted)
    monkeypatch.setattr(look_module, "STEPS", 2)
    monkeypatch.setattr(explained, "LEAST_SHARE", -1e9)  # every phrase is followed to its end
    trained = train(settings, watch=Said(lines.append))
    (looked,) = results
    names = ["cat", "dog"] if several else ["face"]
    assert [each.name for each in looked.found] == names
    # three pictures of each concept and each class word, two steps, with guidance; and three prompts ("a face" and with
    # each phrase) on both kinds of pictures and on the photo, four draws
    phrases = 0 if several else 4 * 3 * (3 + 3 + 1)
    assert looked.passes == sum(seen) == 3 * 2 * len(names) * 2 * 2 + phrases
    assert several or {*looked.found[0].phrases} == {"wearing a hat", "in the snow"}
    assert looked.line in lines and looked.line.startswith("comes back: ")
    (event,) = [event for event in events(settings.output_dir, "zork") if event["event"] == "looked"]
    assert event["concepts"] == looked.numbers() == trained.artifact.metadata["entanglement"]
    saved = Artifact.load(settings.output_dir / "zork_artifact.safetensors")
    assert saved.metadata["entanglement"] == looked.numbers()


def test_by_itself_it_costs_less_than_a_tenth_or_is_left_out(tmp_path, tiny_sd, monkeypatch):
    counts = []
    monkeypatch.setattr(look_module, "look", lambda *given: counts.append(given[-1]) or ())
    monkeypatch.setattr(look_module.Looked, "line", "looked")
    # a sample of stage I: frozen 1, concept 1 + 2 backward; of stage II, whose frozen ones are kept: 3, and 3 for the
    # class: 4 * 4 * 1 + 6 * 4 * n = 16 + 24 n passes. A picture costs 2 * 10 * 2 = 40
    for n, expected in ((2, []), (60, [3]), (300, [8])):
        counts.clear()
        settings = small_settings(tmp_path / str(n), tiny_sd, stage1__steps=1, stage2__steps=1)
        monkeypatch.setattr(look_module, "training_passes", lambda run, n=n: 16 + 24 * n)
        train(settings, watch=Said())
        assert counts == expected
    monkeypatch.undo()
    run = []
    monkeypatch.setattr(run_module, "look_after", lambda r, loop, material: run.append(look_module.training_passes(r)))
    train(small_settings(tmp_path / "counted", tiny_sd, stage1__steps=2, stage2__steps=3), watch=Said())
    assert run == [2 * 4 * 4 + 3 * 4 * 6]


def test_a_look_that_fails_costs_nobody_a_training(tmp_path, tiny_sd, monkeypatch):
    def broken(*args):
        raise RuntimeError("out of luck\nand more")

    lines = []
    monkeypatch.setattr(look_module, "measure", broken)
    settings = small_settings(tmp_path, tiny_sd, run__check="on", stage1__steps=1, stage2__steps=0)
    trained = train(settings, watch=Said(lines.append))
    assert "no look for what is entangled: out of luck" in lines
    assert "entanglement" not in trained.artifact.metadata and trained.sheet.is_file()


def test_a_signal_during_the_look_ends_the_look_alone(tmp_path, tiny_sd, monkeypatch):
    drawn = []

    def signalled(*args, **options):
        drawn.append(len(args[3]))
        os.kill(os.getpid(), signal.SIGTERM)
        return draw_latents(*args, **options)

    draw_latents, lines = look_module.draw_latents, []
    monkeypatch.setattr(look_module, "draw_latents", signalled)
    settings = small_settings(tmp_path, tiny_sd, run__check="on", stage1__steps=1, stage2__steps=0)
    trained = train(settings, watch=Said(lines.append))
    assert drawn == [3] and "no look for what is entangled: it was asked to end" in lines
    assert trained.sheet.is_file() and "entanglement" not in trained.artifact.metadata


# --- the command ------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def finished(tiny_sd, tmp_path_factory):
    """The folder of a run through the command line, at rates that show, and what it said."""
    folder = tmp_path_factory.mktemp("finished")
    values = small_values(
        folder, tiny_sd, run__check="on", stage1__steps=2, stage2__steps=2, stage1__learning_rate=3e-2,
        stage2__learning_rate=3e-2, run__output_name="zork",
    )  # fmt: skip
    assert train_singleinsert.main(command_line(values)) == 0
    return folder / "out"


def test_the_command_finds_what_the_run_has_found(finished, capsys, tmp_path, monkeypatch):
    artifact = Artifact.load(finished / "zork_artifact.safetensors")
    before = artifact.metadata["entanglement"]["face"]
    assert check.main([str(finished), "--num_images", "3", "--grid", str(tmp_path / "look.png")]) == 0
    first, path = capsys.readouterr().out.splitlines()
    # the same seeds; the LoRA is loaded by diffusers here and is the trainer's own there
    shares = [float(number) for number in re.findall(r"(\d+)%", first.partition("(")[0])]
    wanted = [before[key] for key in ("background", "pose") if before[key] is not None]
    assert shares == [pytest.approx(max(0, 100 * value), abs=1) for value in wanted]
    assert path == str(tmp_path / "look.png") and Image.open(path).width > 3 * 160
    monkeypatch.setattr(explained, "LEAST_SHARE", -1e9)  # random weights know no hat
    words = ["--scene_words", "wearing a hat, in snow"]
    assert check.main([str(finished), "--num_images", "1", *words]) == 0
    assert re.search(r'"wearing a hat" \d+%, "in snow" \d+%', capsys.readouterr().out)
    # without the LoRA, the concept's vector alone is at work
    assert check.main([f"{finished / 'zork_artifact.safetensors'}:0", "--num_images", "1"]) == 0
    assert "(1 pictures)" in capsys.readouterr().out


def test_a_concept_without_a_record_needs_its_photo(finished, capsys, tmp_path, tiny_sd):
    artifact = dataclasses.replace(Artifact.load(finished / "zork_artifact.safetensors"), metadata={})
    artifact.save(tmp_path / "other_artifact.safetensors")
    command = [str(tmp_path / "other_artifact.safetensors"), "--num_images", "1"]
    assert check.main(command) == 2
    assert "error: zork does not say what it was learnt from: give the photo as --image" in capsys.readouterr().err
    photo = ["--image", str(finished.parent / "input" / "pic.png"), "--mask", str(finished / "zork_mask.png")]
    assert check.main([*command, *photo, "--resolution", "32"]) == 0
    assert "comes back: " in capsys.readouterr().out
    assert check.main([*command, "--image", "gone.png"]) == 2
    assert "error: the photo of zork is not at gone.png: give it as --image" in capsys.readouterr().err
    assert check.main([*command[:1], "--num_images", "0"]) == 2
    assert "error: --num_images 0: at least 1 is needed" in capsys.readouterr().err
    assert check.main(["nobody"]) == 2
    assert "error: no concept 'nobody'" in capsys.readouterr().err
