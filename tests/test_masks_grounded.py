"""GroundingDINO and SAM: small random models of the true classes go through the true code, and the boxes by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from photos import write_photo
from PIL import Image
from tinymasks import write_tiny_grounding_dino, write_tiny_sam

from singleinsert.data.pictures import Picture, load_picture
from singleinsert.errors import InputError, MissingPackageError, ModelError
from singleinsert.masks import find_mask
from singleinsert.masks import grounded as module
from singleinsert.masks.backends import Backends
from singleinsert.masks.grounded import Grounded, detector_text, select_boxes


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("grounded")
    return str(write_tiny_grounding_dino(folder / "dino")), str(write_tiny_sam(folder / "sam"))


@pytest.fixture(scope="session")
def photo(tmp_path_factory) -> Image.Image:
    return load_picture(write_photo("astronaut", tmp_path_factory.mktemp("photo"))).image.resize((150, 120))


# --- by hand ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("face", "face."),
        ("Teddy  Bear", "teddy bear."),
        ("hair. wig.", "hair. wig."),
        ("cat, dog", "cat. dog."),
    ],
)
def test_the_detectors_text(prompt, text):
    assert detector_text(prompt) == text


def test_boxes_are_clipped_sorted_and_thinned():
    boxes = [(-20, 10, 50, 60), (10, 10, 30, 30), (11, 10, 30, 30), (40, 40, 40.5, 41), (90, 70, 200, 200)]
    scores = [0.4, 0.5, 0.9, 0.99, 0.6]
    # 1 and 2 overlap by 380 / 400: the better one stays. 3 holds half a pixel. 0 and 4 reach beyond the picture.
    assert select_boxes(boxes, scores, list("abcde"), (100, 80)) == (
        [(11, 10, 30, 30), (90, 70, 100, 80), (0, 10, 50, 60)],
        [0.9, 0.6, 0.4],
        ["c", "e", "a"],
    )


def test_post_processing_by_hand(monkeypatch, photo):
    """Model outputs in, boxes in pixels out: centre and size in shares of the picture, scores by the sigmoid."""
    outputs = SimpleNamespace(
        logits=torch.tensor([[[-9.0, 2.0], [1.0, -9.0], [-3.0, -4.0]]]),
        pred_boxes=torch.tensor([[[0.5, 0.5, 0.2, 0.4], [0.1, 0.1, 0.4, 0.4], [0.5, 0.5, 0.9, 0.9]]]),
    )
    processor = SimpleNamespace(batch_decode=lambda ids: ["face [SEP]", ".", ""][: len(ids)])
    from transformers import BatchFeature, GroundingDinoProcessor

    class Processor:
        post_process_grounded_object_detection = GroundingDinoProcessor.post_process_grounded_object_detection
        batch_decode = staticmethod(processor.batch_decode)

        def __call__(self, images, text, return_tensors):
            assert text == "face."
            return BatchFeature({"input_ids": torch.tensor([[2, 6]])})

    backend = Grounded("d", "s", threshold=0.5, device="cpu")
    monkeypatch.setattr(backend, "_load", lambda role: (Processor(), lambda **inputs: outputs))
    boxes, scores, labels = backend.detect(photo, "Face")
    # 150 x 120: 0.5 +- 0.1 of 150 and 0.5 +- 0.2 of 120; 0.1 +- 0.2 clipped at the edge
    assert np.allclose(boxes, [(60, 36, 90, 84), (0, 0, 45, 36)])
    assert scores == pytest.approx([1 / (1 + np.exp(-2)), 1 / (1 + np.exp(-1))])
    assert labels == ["face", "Face"], "a label of separators alone is the prompt"


# --- the true classes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("half", [False, True])
def test_picture_and_word_to_masks(models, photo, half):
    """Float16 as on CUDA, and float32."""
    backend = Grounded(*models, threshold=0.0, half=half, device="cpu")
    found = backend.find(photo, "face")
    assert found and [c.score for c in found] == sorted((c.score for c in found), reverse=True)
    for candidate in found:
        assert candidate.mask.mode == "L" and candidate.mask.size == photo.size and candidate.label
        assert set(np.unique(candidate.mask)) <= {0, 255}
        left, top, right, bottom = candidate.box
        assert 0 <= left < right <= 150 and 0 <= top < bottom <= 120
    assert backend.find(photo, "face")[0].mask == found[0].mask
    assert {p.dtype for p in backend._load("segmenter")[1].parameters()} == {torch.float16 if half else torch.float32}


def test_the_models_are_freed(models, photo):
    backend = Grounded(*models, threshold=0.0, device="cpu")
    backend.find(photo, "face")
    assert set(backend._loaded) == {"detector", "segmenter"}
    backend.close()
    assert not backend._loaded


def test_nothing_over_the_threshold(models, photo):
    """And SAM is not loaded for nothing."""
    backend = Grounded(*models, threshold=1.0, device="cpu")
    assert backend.find(photo, "face") == [] and set(backend._loaded) == {"detector"}


def test_pointing(models, photo):
    backend = Grounded(*models, device="cpu")
    assert backend.outline(photo, (10, 10, 100, 100), ()).label == "box"
    assert backend.outline(photo, None, [(50, 50, True)]).mask.size == photo.size
    both = backend.outline(photo, (10, 10, 100, 100), [(50, 50, True), (80, 20, False)])
    assert both.mask.size == photo.size and set(backend._loaded) == {"segmenter"}
    with pytest.raises(InputError, match="nothing marks the subject"):
        backend.outline(photo, None, [])


def test_find_mask_takes_folders(models, photo):
    detector, segmenter = models
    picture = Picture(photo, None, Path("a.png"))
    options = {"detector": detector, "segmenter": segmenter, "threshold": 0.0, "merge": True, "smooth": 0.0}
    result = find_mask(picture, "face", **options)
    assert result.source == "dino and sam" and len(result.candidates) > 1
    pointed = find_mask(picture, "face", detector=detector, segmenter=segmenter, points=("75,60",))
    assert pointed.source == "dino and sam", "SAM is here: it refines, not GrabCut"


# --- what is missing --------------------------------------------------------------------------------------------------


def test_models_that_are_not_here(photo):
    with pytest.raises(ModelError, match=r"detector: org/dino is not on this machine and the hub cannot be reached"):
        Grounded("org/dino", "org/sam", device="cpu").detect(photo, "face")


def test_an_unreachable_hub_is_asked_once_and_briefly(monkeypatch):
    """Without the probe, transformers retries for most of a minute."""
    import huggingface_hub

    asked = []

    class Session:
        def head(self, url, timeout):
            asked.append(timeout)
            raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "get_session", Session)
    assert module.missing_models("org/dino", "org/sam").startswith("org/dino and org/sam are not on this machine")
    assert asked == [module.PROBE_SECONDS]


def test_models_that_can_be_fetched_are_not_missing(monkeypatch):
    monkeypatch.setattr(module, "_hub_answers", lambda: True)
    assert module.missing_models("org/dino") == ""
    assert Backends().get("cat", pointed=False, notes=[]).name == "grounding-dino-tiny and sam-vit-base"


def test_a_folder_of_something_else(tmp_path, photo, models):
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match=f"detector {tmp_path} cannot be loaded: ") as caught:
        Grounded(str(tmp_path), models[1], device="cpu").detect(photo, "face")
    assert "\n" not in str(caught.value)


def test_sam_2_says_what_it_needs(tmp_path, photo):
    """Its image processor is torchvision's, which the CPU set must not have."""
    from transformers import Sam2Config

    Sam2Config().save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(
        '{"image_processor_type": "Sam2ImageProcessor"}', encoding="utf-8"
    )
    (tmp_path / "processor_config.json").write_text('{"processor_class": "Sam2Processor"}', encoding="utf-8")
    backend = Grounded("d", str(tmp_path), device="cpu")
    with pytest.raises(MissingPackageError, match="that is torchvision .*facebook/sam-vit-base runs without"):
        backend.outline(photo, (10, 10, 100, 100), ())
