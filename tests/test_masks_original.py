"""The backend on groundingdino-py and segment-anything, with stand-ins: CI cannot have torchvision.

The stand-ins take what the packages' own code takes (groundingdino 0.4.0, segment-anything 1.0) and answer by rule.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from singleinsert.data.pictures import Picture
from singleinsert.errors import InputError, MissingPackageError, ModelError
from singleinsert.masks import find_mask
from singleinsert.masks.original import Original

SIZE = (100, 80)


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))


class Sam(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))


class Predictor:
    """Fills the box; without one, a square around the point. Three proposals, the second the best."""

    def __init__(self, model: Any) -> None:
        assert torch.equal(model.weight.detach(), torch.ones(2)), "the checkpoint's weights"

    def set_image(self, image: np.ndarray) -> None:
        assert image.shape == (80, 100, 3) and image.dtype == np.uint8

    def predict(self, point_coords, point_labels, box, multimask_output):
        mask = np.zeros((3 if multimask_output else 1, 80, 100), bool)
        if box is not None:
            left, top, right, bottom = box.astype(int)
            mask[:, top:bottom, left:right] = True
            return mask, np.array([0.9]), None
        assert point_labels.tolist() == [1] and multimask_output
        x, y = point_coords[0].astype(int)
        mask[1, y - 10 : y + 10, x - 10 : x + 10] = True
        return mask, np.array([0.5, 0.8, 0.6]), None


def predict(model, image, caption, box_threshold, text_threshold, device):
    assert torch.equal(model.weight.detach(), torch.full((3,), 2.0)), "the checkpoint's weights"
    assert image.dtype == torch.float32 and image.shape == (3, 800, 1000), "the shorter side at 800"
    assert caption == "face." and device == "cpu" and text_threshold == 0.25
    # centre and size in shares; the second reaches beyond the picture
    boxes = torch.tensor([[0.3, 0.5, 0.2, 0.5], [0.9, 0.5, 0.4, 0.5]])
    keep = torch.tensor([0.6, 0.5]) > box_threshold
    return boxes[keep], torch.tensor([0.6, 0.5])[keep], ["[CLS] face [SEP]", "[SEP]"]


@pytest.fixture
def packages(monkeypatch, tmp_path):
    """Both packages, and their two checkpoints."""
    (tmp_path / "config").mkdir()

    def module(name: str, **content: object) -> ModuleType:
        made = ModuleType(name)
        made.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, made)
        return made

    def from_file(path: str) -> SimpleNamespace:
        assert path == str(tmp_path / "config" / "GroundingDINO_SwinT_OGC.py")
        return SimpleNamespace()

    top = module("groundingdino")
    top.config = module("groundingdino.config", __path__=[str(tmp_path / "config")])
    module("groundingdino.models", build_model=lambda arguments: Detector())
    module("groundingdino.util")
    module(
        "groundingdino.util.misc",
        clean_state_dict=lambda state: {k.removeprefix("module."): v for k, v in state.items()},
    )
    module("groundingdino.util.slconfig", SLConfig=SimpleNamespace(fromfile=from_file))
    module("groundingdino.util.inference", predict=predict)
    module("segment_anything", SamPredictor=Predictor, sam_model_registry={"vit_b": Sam})
    import transformers

    monkeypatch.setattr(transformers.BertModel, "get_extended_attention_mask", None, raising=False)
    detector, segmenter = tmp_path / "groundingdino_swint_ogc.pth", tmp_path / "sam_vit_b_01ec64.pth"
    torch.save({"model": {"module.weight": torch.full((3,), 2.0)}}, detector)
    torch.save({"weight": torch.ones(2)}, segmenter)
    return str(detector), str(segmenter)


def picture() -> Picture:
    return Picture(Image.new("RGB", SIZE, (100, 110, 120)), None, Path("a.png"))


def test_boxes_and_masks(packages):
    found = Original(*packages, device="cpu").find(picture().image, "Face")
    # 0.3 +- 0.1 of 100 and 0.5 +- 0.25 of 80; 0.9 +- 0.2 clipped at 100
    assert [c.box for c in found] == [pytest.approx((20, 20, 40, 60)), pytest.approx((70, 20, 100, 60))]
    assert [c.label for c in found] == ["face", "Face"]
    assert [c.score for c in found] == pytest.approx([0.6, 0.5])
    assert found[0].share == pytest.approx(20 * 40 / 8000, abs=0.01)


def test_points_take_the_best_proposal(packages):
    assert Original(*packages, device="cpu").outline(picture().image, None, [(50, 40, True)]).share == 0.05


def test_pth_files_choose_this_backend(packages):
    detector, segmenter = packages
    result = find_mask(picture(), "face", detector=detector, segmenter=segmenter, device="cpu")
    assert result.source == "groundingdino_swint_ogc.pth and sam_vit_b_01ec64.pth"
    with pytest.raises(InputError, match="no face was found"):
        find_mask(picture(), "face", detector=detector, segmenter=segmenter, threshold=0.7, device="cpu")


def test_with_todays_transformers_it_names_the_default(packages, monkeypatch):
    import transformers

    monkeypatch.delattr(transformers.BertModel, "get_extended_attention_mask")
    with pytest.raises(MissingPackageError, match=r"does not run with transformers 5.*mask\.backend = \"grounded\""):
        Original(*packages, device="cpu").find(picture().image, "face")


def test_packages_that_are_not_there(packages, monkeypatch):
    monkeypatch.setitem(sys.modules, "segment_anything", None)
    with pytest.raises(MissingPackageError, match=r"pip install segment-anything torchvision; the default"):
        Original(*packages, device="cpu").outline(picture().image, (10, 10, 50, 50), ())
    monkeypatch.setitem(sys.modules, "groundingdino.util.inference", None)
    with pytest.raises(MissingPackageError, match=r"pip install groundingdino-py torchvision; the default"):
        Original(*packages, device="cpu").find(picture().image, "face")


def test_a_pickle_with_code_is_refused(packages, tmp_path):
    """It would run on loading."""
    ran = tmp_path / "ran"

    class Code:
        def __reduce__(self):
            return (Path.touch, (ran,))

    torch.save({"weight": Code()}, packages[1])
    with pytest.raises(ModelError, match="cannot be loaded as plain weights"):
        Original(*packages, device="cpu").outline(picture().image, (10, 10, 50, 50), ())
    assert not ran.exists()


def test_checkpoints_that_do_not_fit(packages, tmp_path):
    detector, segmenter = packages
    torch.save({"model": {"other": torch.ones(1)}}, detector)
    with pytest.raises(ModelError, match="lacks 1 of GroundingDINO's weights, the first weight"):
        Original(detector, segmenter, device="cpu").find(picture().image, "face")
    torch.save({"other": torch.ones(1)}, segmenter)
    with pytest.raises(ModelError, match="is not a SAM vit_b"):
        Original(detector, segmenter, device="cpu").outline(picture().image, (10, 10, 50, 50), ())
    with pytest.raises(InputError, match="says vit_h, vit_l or vit_b; rename it"):
        other = tmp_path / "sam.pth"
        other.write_bytes(Path(segmenter).read_bytes())
        Original(detector, str(other), device="cpu").outline(picture().image, (10, 10, 50, 50), ())
    with pytest.raises(InputError, match=r"mask\.detector: no checkpoint file \(it is empty\)"):
        find_mask(picture(), "face", backend="original")
