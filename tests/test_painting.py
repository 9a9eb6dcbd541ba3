"""Views that the base model paints for a run: the subject elsewhere, and who sees them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from runs import QUIET, small_settings

from singleinsert.errors import ConfigError
from singleinsert.models.loading import load_base_model
from singleinsert.training.accelerator import build_accelerator
from singleinsert.training.files import RunFiles
from singleinsert.training.loop import Run
from singleinsert.training.prepare import find_material
from singleinsert.training.run import assemble, train
from singleinsert.training.stages import stages_of

GIVEN: dict[str, Any] = {
    "painted__views": 3, "painted__num_inference_steps": 2,
    "painted__places": ("{concept} in the snow", "{concept} on the beach"),
}  # fmt: skip


def assembled(folder, model, **changes) -> Run:
    settings = small_settings(folder, model, **(GIVEN | changes))
    files = RunFiles(settings.output_dir, settings.name)
    material, accelerator = find_material(settings, lambda line: None), build_accelerator(settings, files)
    return assemble(settings, accelerator, files, stages_of(settings), load_base_model(model), material, QUIET)


@pytest.fixture(scope="module")
def painted(tmp_path_factory, tiny_sd) -> Run:
    return assembled(tmp_path_factory.mktemp("painted"), tiny_sd)


def test_views_have_the_subject_and_other_surroundings(painted):
    source, *others = painted.pictures
    assert len(others) == 3
    mask = source.masks["face"]
    inside, outside = (mask == 1).expand_as(source.latents.mean), (mask == 0).expand_as(source.latents.mean)
    assert inside.any() and outside.any()
    for view in others:
        assert torch.equal(view.latents.mean[inside], source.latents.mean[inside]) and not view.latents.std.any()
        assert not torch.isclose(view.latents.mean[outside], source.latents.mean[outside]).any()
        assert view.masks is source.masks
    assert not torch.equal(others[0].latents.mean, others[2].latents.mean)  # one prompt, noise of its own


def test_the_same_views_again_whatever_else_is_painted(painted, tmp_path, tiny_sd):
    again = assembled(tmp_path, tiny_sd, painted__views=1)
    assert torch.allclose(again.pictures[1].latents.mean, painted.pictures[1].latents.mean, atol=1e-4)


def test_who_sees_what_and_is_asked_what(painted):
    seen = [painted.prompting.at("stage2", sample) for sample in range(600)]
    count = Counter(prompt.picture for prompt in seen)
    assert count[0] == pytest.approx(300, abs=50) and all(count[i] == pytest.approx(100, abs=35) for i in (1, 2, 3))
    asked = {prompt.picture: (prompt.prompt, prompt.frozen_prompt, prompt.class_prompt) for prompt in seen}
    assert asked[0] == ("* face", "face", "face") and asked[2][0] == "* face on the beach"
    assert asked[1] == asked[3] == ("* face in the snow", "face in the snow", "face in the snow")
    assert all(prompt.shown for prompt in seen)


@pytest.mark.parametrize("changes", [{}, {"stage2__objective": "break_a_scene", "run__teacher_bank": False}])
def test_runs_learn_from_them(tmp_path, tiny_sd, changes):
    """With the bank and without: its predictions are of the picture that a sample saw in stage I."""
    plain = train(small_settings(tmp_path / "plain", tiny_sd, **changes), watch=QUIET).artifact
    seen = train(small_settings(tmp_path / "views", tiny_sd, **(GIVEN | changes)), watch=QUIET).artifact
    assert not seen.concept.embeddings["text_encoder"].equal(plain.concept.embeddings["text_encoder"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"painted__places": ()}, "painted.places is empty"),
        ({"painted__places": ("in the snow",)}, "does not hold {concept}"),
        ({"data__class_word": ("face", "hat")}, "painted.views are of a single concept"),
    ],
)
def test_views_that_nobody_could_learn_from_are_refused(tmp_path, tiny_sd, changes, message):
    with pytest.raises(ConfigError, match=message):
        train(small_settings(tmp_path, tiny_sd, **(GIVEN | changes)), watch=QUIET)
