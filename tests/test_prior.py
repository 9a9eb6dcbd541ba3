"""DreamBooth's prior term: its algebra, its pictures drawn once, and a run with it that can be interrupted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from batches import same_to_the_bit
from runs import QUIET, Said, draw_subject, small_settings
from test_step import ASKED, FRAME, SHAPE, concept, inject, subject
from tinymodels import hashed

from singleinsert.artifact import Artifact
from singleinsert.config import Settings
from singleinsert.errors import ConfigError, InputError
from singleinsert.losses import FullImage
from singleinsert.models.latents import LatentDistribution
from singleinsert.models.loading import load_base_model
from singleinsert.models.text import encode, tokenize
from singleinsert.training.draws import draw
from singleinsert.training.prior import Prior
from singleinsert.training.run import train
from singleinsert.training.step import training_step
from singleinsert.training.texts import ConceptSet, PromptBook, StepConditions


def prior_of(count: int = 3) -> Prior:
    latents = LatentDistribution(hashed((count, *SHAPE), 5), 0.1 * hashed((count, *SHAPE), 6).abs())
    return Prior(latents, "a photo of a face", 0, torch.device("cpu"), "")


def test_draws_are_the_samples_own_and_not_the_concepts(make_tiny_sd):
    schedule, prior = load_base_model(make_tiny_sd("epsilon")).schedule, prior_of()
    together, alone = prior.draw(schedule, "stage1", range(6)), prior.draw(schedule, "stage1", range(4, 5))
    assert torch.equal(together.x0[4:5], alone.x0) and torch.equal(together.noise[4:5], alone.noise)
    assert not torch.equal(together.noise, draw(schedule, SHAPE, 0, "stage1", range(6)).noise)
    many = [tuple(row) for row in prior.draw(schedule, "stage1", range(60)).x0[:, 0, 0].round(decimals=1).tolist()]
    assert len(set(many)) > 3  # of three pictures, each with its own posterior


def test_the_term_equals_the_restatement_with_the_tuned_text_encoder(make_tiny_sd):
    """prior_weight mean((x0_hat(tuned, "a photo of a face") - x0)^2) / snr: the epsilon space, in x0."""
    model, part = load_base_model(make_tiny_sd("epsilon")), concept()
    adapters = inject(model)
    prior, samples, concepts = prior_of(), range(2), ConceptSet({"it": part})
    book = PromptBook(model, concepts, {"it": "face"})
    conditions = StepConditions(book, concepts, adapters, [ASKED], [FRAME], tunes_text=False, prior=prior.prompt)
    draws, seen = draw(model.schedule, SHAPE, 0, "stage1", samples), prior.draw(model.schedule, "stage1", samples)
    terms = {}
    for each in training_step(
        draws, [ASKED] * 2, [subject()], conditions, model, adapters, FullImage(prior_weight=0.5), prior=seen
    ):
        torch.stack([term.mean() for term in each.values()]).sum().backward()
        terms |= each
    conditions.backward()
    assert list(terms) == ["full_image", "prior"]
    abar = model.schedule.alphas_cumprod[seen.t].reshape(-1, 1, 1, 1)
    x_t = abar.sqrt() * seen.x0 + (1 - abar).sqrt() * seen.noise
    text = encode(model.text_encoder, tokenize(model.tokenizer, prior.prompt, {}), {})
    with torch.no_grad():
        epsilon = model.unet(x_t, seen.t, torch.cat([text, text])).sample
    expected = 0.5 * (epsilon - seen.noise).square().mean(dim=(1, 2, 3))
    assert terms["prior"].detach() == pytest.approx(expected, rel=2e-3)
    grads = dict(adapters.named_parameters())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for n, p in grads.items() if n.startswith("text"))


PRIOR = {
    "stage1.objective": "full_image", "stage1.loss_space": "epsilon", "stage1.prior_weight": 1.0,
    "stage1.trains": ["concept", "denoiser", "text"], "stage2.steps": 0, "prior.pictures": 3,
    "prior.num_inference_steps": 2, "concept.type": "vector",
}  # fmt: skip


def dreambooth(folder: Path, model: Path, **changes: object) -> Settings:
    return small_settings(folder, model, **{k.replace(".", "__"): v for k, v in (PRIOR | changes).items()})


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_pictures_are_drawn_once_and_an_interrupted_run_is_the_undisturbed_one(
    tiny_sd, tmp_path, monkeypatch, adapter
):  # fmt: skip
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    settings = dreambooth(tmp_path, tiny_sd, **{"adapter.type": adapter, "run.output_name": "whole"})
    whole = train(settings, watch=Said(said.append)).artifact
    assert sum("drawing 4 pictures of 'a photo of a face'" in line for line in said) == 1
    drawn = sorted((tmp_path / "output/class-pictures").rglob("*.png"))
    assert [path.name for path in drawn] == ["00000.png", "00001.png", "00002.png", "00003.png"]
    losses = (tmp_path / "out/logs/whole/losses.csv").read_text().splitlines()
    assert "prior" in losses[0].split(",") and len(losses) == 4

    drawn[1].unlink()  # as if it had been stopped there: what is there is not drawn again
    kept, said[:] = drawn[0].stat().st_mtime_ns, []
    saving = replace(settings, run=replace(settings.run, output_name="again", checkpointing_steps=2))
    again = train(saving, watch=Said(said.append)).artifact
    assert any("drawing 4 pictures" in line for line in said) and drawn[0].stat().st_mtime_ns == kept
    assert same_to_the_bit(whole, again)
    checkpoint = next((tmp_path / "out").rglob("step_*2.safetensors"))
    resumed = replace(
        settings, run=replace(settings.run, output_name="resumed", resume_from_checkpoint=str(checkpoint))
    )
    assert same_to_the_bit(train(resumed, watch=QUIET).artifact, whole)

    bare = dreambooth(
        tmp_path, tiny_sd, **{"adapter.type": adapter, "stage1.prior_weight": 0.0, "run.output_name": "b"}
    )
    assert not same_to_the_bit(train(bare, watch=QUIET).artifact, whole)


def test_a_folder_of_ones_own_is_used_as_it_is(tiny_sd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        draw_subject(tmp_path / "class", name)
    said: list[str] = []
    settings = dreambooth(tmp_path, tiny_sd, **{"prior.folder": str(tmp_path / "class")})
    assert isinstance(train(settings, watch=Said(said.append)).artifact, Artifact)
    assert any(line.startswith("prior: 2 pictures") for line in said) and not (tmp_path / "output").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no picture"):
        train(
            dreambooth(tmp_path, tiny_sd, **{"prior.folder": str(tmp_path / "empty"), "run.output_name": "e"}),
            watch=QUIET,
        )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"stage1.trains": ["concept"]}, "prior_weight has no effect while the base model is unchanged"),
        ({"data.class_word": ["face", "cat"]}, "one class word"),
        ({"prior.prompt": "a photo of *"}, "prior.prompt 'a photo of \\*' names the concept"),
    ],
)
def test_what_does_not_go_together_is_one_line(tiny_sd, tmp_path, changes, said):
    with pytest.raises(ConfigError, match=said) as error:
        train(dreambooth(tmp_path, tiny_sd, **changes), watch=QUIET)
    assert "\n" not in str(error.value)
