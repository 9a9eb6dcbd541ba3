"""Runs of several pictures, with captions, of several subjects and of other adapters, through the command line."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from batches import same_to_the_bit
from diffusers import DDIMScheduler, StableDiffusionPipeline
from PIL import Image
from runs import QUIET, draw_subject, small_settings, small_values
from test_train_script import command_line

import train_singleinsert
from singleinsert.artifact import Artifact
from singleinsert.config import load_settings
from singleinsert.drawing.sheet import TILE
from singleinsert.models.bundled import MINI_SD
from singleinsert.models.loading import load_base_model
from singleinsert.training import loop
from singleinsert.training.checkpoint import checkpoints, load_checkpoint
from singleinsert.training.run import train


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """A folder of two pictures, the second one mirrored; beside it, one of their masks. The first has a caption."""
    photos, masks = tmp_path / "photos", tmp_path / "masks"
    masks.mkdir()
    image, mask = draw_subject(photos, "a")
    Image.open(image).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(photos / "b.png")
    Image.open(mask).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(masks / "b.png")
    shutil.move(mask, masks / "a.png")
    (photos / "a.txt").write_text("a photo of a face on the beach\n")
    return photos


def of_album(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in ("data.image", "data.mask")}


def call(capsys: Any, *words: str) -> tuple[int, str, str]:
    code = train_singleinsert.main([*words])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_a_folder_of_pictures_and_the_same_ones_by_name_are_one_run(tiny_sd, tmp_path, album, capsys):
    values = of_album(small_values(tmp_path, tiny_sd, run__output_name="album", stage2__steps=1))
    masks = ("--mask", str(album.parent / "masks"))
    code, said, error = call(capsys, *command_line(values), "--image", str(album), *masks)
    assert code == 0, error
    assert said.count("learning from") == 2 and said.count("a photo of a {concept} on the beach") == 1
    out = tmp_path / "out"
    assert {"album_01_mask.png", "album_02_mask.png", "album.safetensors"} <= {path.name for path in out.iterdir()}
    assert load_settings(None, out / "album_config.toml").data.image == (str(album),)

    each = [word for name in ("a.png", "b.png") for word in ("--image", str(album / name))]
    changes = {"run.output_dir": str(tmp_path / "again")}
    files = [word for name in ("a.png", "b.png") for word in ("--mask", str(album.parent / "masks" / name))]
    code, _, error = call(capsys, *command_line(values | changes), *each, *files)
    assert code == 0, error
    one, two = (Artifact.load(folder / "album_artifact.safetensors") for folder in (out, tmp_path / "again"))
    assert same_to_the_bit(one, two)

    (album / "a.txt").unlink()  # and its caption is a part of the run
    values["run.output_dir"] = str(tmp_path / "bare")
    assert call(capsys, *command_line(values), "--image", str(album), *masks)[0] == 0
    bare = Artifact.load(tmp_path / "bare/album_artifact.safetensors")
    assert not torch.equal(bare.embedding, one.embedding)


def test_what_does_not_go_with_several_pictures_is_one_line(tiny_sd, tmp_path, album, capsys):
    values = of_album(small_values(tmp_path, tiny_sd, run__output_name="album"))
    masks = album.parent / "masks"
    three = [word for _ in range(3) for word in ("--mask", str(masks / "a.png"))]
    for message, words in (
        ("3 masks for 2 pictures: give one for each, or a folder", ["--image", str(album), *three]),
        ("no mask for b.png", ["--image", str(album), "--mask", str(masks), "--set", "run.seed=1"]),
        ("a caption file", ["--image", str(album), "--mask", str(masks)]),
        ("holds no picture that can be read", ["--image", str(masks.parent / "none")]),
    ):
        if message.startswith("no mask"):
            (masks / "b.png").rename(masks / "c.png")
        if message.startswith("a caption"):
            (masks / "c.png").rename(masks / "b.png")
            (album / "a.txt").write_text("")
            message = "a.txt is empty"
        (masks.parent / "none").mkdir(exist_ok=True)
        code, _, error = call(capsys, *command_line(values), *words)
        assert code == 2 and message in error and len(error.strip().splitlines()) == 1, error
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


def album_settings(folder: Path, model: Path, album: Path, **changes: Any) -> Any:
    """A run of the two pictures, by their folder."""
    changes = {
        "data__mask": str(album.parent / "masks"),
        "data__image": str(album),
        "run__output_name": "pic",
    } | changes
    return small_settings(folder, model, **changes)


def test_which_picture_a_sample_sees_hangs_on_its_number_alone(tiny_sd, tmp_path, album, monkeypatch):
    """Whatever the micro-batch, and from wherever a run goes on; the teacher bank hands on what its stage was shown."""
    seen: list[tuple[int, float]] = []
    original = loop.training_step

    def watch(draws, prompts, *rest):
        seen.extend(
            (prompt.picture, noise) for prompt, noise in zip(prompts, draws.noise[:, 0, 0, 0].tolist(), strict=True)
        )
        return original(draws, prompts, *rest)

    monkeypatch.setattr(loop, "training_step", watch)
    kept = {"run__checkpointing_steps": 1, "run__checkpoints_total_limit": 0}
    whole = train(album_settings(tmp_path / "whole", tiny_sd, album, **kept), watch=QUIET).artifact
    every = [*seen]
    assert len(every) == 24 and {picture for picture, _ in every[:12]} == {0, 1}
    # of the bank: the second stage's samples are the first one's, each with the picture that it had there
    assert sorted(every[12:]) == sorted(every[:12]) and every[12:] != every[:12]
    for size in (1, 3):
        seen.clear()
        train(album_settings(tmp_path / str(size), tiny_sd, album, run__micro_batch_size=size), watch=QUIET)
        assert seen == every
    for step in (2, 4):
        seen.clear()
        path = str(tmp_path / f"whole/out/checkpoints/pic/step_{step:06d}.safetensors")
        changes = {"run__resume_from_checkpoint": path}
        again = train(album_settings(tmp_path / f"from{step}", tiny_sd, album, **changes), watch=QUIET).artifact
        assert seen == every[4 * step :] and same_to_the_bit(again, whole)


def test_two_subjects_of_one_picture_both_learn_and_are_exported(tmp_path, capsys):
    """Each has parameters of its own, which move where a sample names it. On mini-sd, which knows "<face>"."""
    _, mask = draw_subject(tmp_path / "input")
    other = tmp_path / "input/other.png"
    Image.new("L", (80, 64), 0).save(other)
    with Image.open(other) as black:
        black.paste(255, (62, 0, 80, 64))
        black.save(other)
    values = small_values(
        tmp_path, Path("mini-sd"), concept__type="vector", data__resolution=64, stage2__steps=1,
        run__output_name="zorpair", run__checkpointing_steps=1, run__checkpoints_total_limit=0,
        sample__prompts=["{face} and {cat}"], save__formats=["webui", "diffusers"], save__save_precision="fp32",
    )  # fmt: skip
    del values["data.class_word"], values["data.mask"]
    words = ["--class_word", "face", "--class_word", "cat", "--mask", str(mask), "--mask", str(other)]
    code, said, error = call(capsys, *command_line(values), *words)
    assert code == 0, error
    assert re.search(r"learning from 64x64 pixels of it: face \d+\.\d%, cat \d+\.\d%", said)
    out = tmp_path / "out"
    first, *_, last = (load_checkpoint(path)["parameters"] for path in checkpoints(out / "checkpoints/zorpair"))
    assert set(first) == {"concept.face.weight", "concept.cat.weight"} < set(last)
    assert all(not torch.equal(first[name], last[name]) for name in first)
    artifact = Artifact.load(out / "zorpair_artifact.safetensors")
    assert [concept.name for concept in artifact.concepts] == ["face", "cat"] and artifact.lora
    for concept in artifact.concepts:
        assert torch.equal(concept.embeddings["text_encoder"], last[f"concept.{concept.name}.weight"])
        assert (out / f"{artifact.trigger(concept)}.safetensors").is_file()
    assert {"zorpair_01_mask.png", "zorpair_02_mask.png", "zorpair_lora.safetensors"} <= {p.name for p in out.iterdir()}
    card = json.loads((out / "zorpair_lora.json").read_text())
    assert card["example prompts"][0] == "zorpairface face and zorpaircat cat <lora:zorpair_lora:1>"
    (sample,) = (out / "samples").glob("*stage2*.png")
    # the LoRA is folded into the weights while a sample is drawn
    assert np.abs(np.asarray(Image.open(sample)).astype(int) - of_diffusers(out)).max() <= 1
    # captions and two rows of stages are 716 pixels; where each acts on the source is a third one
    assert Image.open(out / "zorpair_sheet.png").height > 716 + TILE


def of_diffusers(out: Path) -> np.ndarray:
    """The run's last sample, drawn by diffusers' own loaders from what was exported."""
    pipe = StableDiffusionPipeline.from_pretrained(MINI_SD, safety_checker=None, dtype=torch.float32)
    pipe.scheduler = DDIMScheduler.from_config(load_base_model(MINI_SD).scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    folder, sample = out / "zorpair_diffusers", load_settings(config_file=out / "zorpair_config.toml").sample
    pipe.load_textual_inversion([str(folder / f"zorpair{name}.safetensors") for name in ("face", "cat")])
    pipe.load_lora_weights(str(folder))
    return np.asarray(
        pipe("zorpairface face and zorpaircat cat", negative_prompt="", num_inference_steps=sample.num_inference_steps,
             guidance_scale=sample.guidance_scale, generator=torch.Generator().manual_seed(sample.seed)).images[0]
    )  # fmt: skip


@pytest.mark.parametrize(("kind", "rank"), [("full", 2), ("kv", 64)])
def test_other_adapters_export_the_nearest_lora_and_say_what_it_leaves_out(tiny_sd, tmp_path, capsys, kind, rank):
    """kv's matrices have a rank of at most 32, so that nothing of them is left out."""
    values = small_values(tmp_path, tiny_sd, adapter__type=kind, stage2__learning_rate=1e-3)
    code, said, error = call(capsys, *command_line(values), "--network_dim", str(rank))
    assert code == 0, error
    artifact = Artifact.load(tmp_path / "out/pic_artifact.safetensors")
    assert (tmp_path / "out/pic_lora.safetensors").is_file()
    ranks = {weights.rank for layers in artifact.lora.values() for weights in layers.values()}
    if kind == "full":
        assert ranks == {2} and set(artifact.lora) == {"unet", "text_encoder"}
        assert "as a LoRA of rank 2:" in said and "% of it is left out; a larger --network_dim leaves less" in said
    else:
        assert max(ranks) <= 32 and set(artifact.lora) == {"unet"}
        assert all(".attn2.to_" in path for path in artifact.lora["unet"]) and "is left out" not in said
    change = sum(float((w.up @ w.down).square().sum()) for layers in artifact.lora.values() for w in layers.values())
    assert change > 0


def test_a_full_run_goes_on_from_a_checkpoint_to_the_same_bits(tiny_sd, tmp_path):
    changes = {"adapter__type": "full", "run__checkpointing_steps": 1, "run__checkpoints_total_limit": 0}
    whole = train(small_settings(tmp_path / "whole", tiny_sd, **changes), watch=QUIET).artifact
    path = str(tmp_path / "whole/out/checkpoints/pic/step_000004.safetensors")
    again = small_settings(tmp_path / "again", tiny_sd, run__resume_from_checkpoint=path, **changes)
    assert same_to_the_bit(train(again, watch=QUIET).artifact, whole)
