"""Grounded segmentation on the authors' packages, `groundingdino-py` and `segment-anything`, and their .pth files.

For people who have those files. Both packages import torchvision; `groundingdino-py` 0.4 runs with transformers 4
only. The default backend (`grounded.py`) is the same models without either.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from singleinsert.errors import InputError, MissingPackageError, ModelError, first_line
from singleinsert.masks.candidates import THRESHOLD, Box, Point
from singleinsert.masks.grounded import (
    TEXT_THRESHOLD,
    DetectThenCut,
    detector_text,
    plain_label,
    select_boxes,
)

DEFAULT_INSTEAD = 'the default, mask.backend = "grounded", runs without it'
DETECTOR_SIDE, DETECTOR_MAX_SIDE = 800, 1333
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Original(DetectThenCut):
    """GroundingDINO and SAM from their own packages."""

    def __init__(
        self, detector: str, segmenter: str, *, threshold: float = THRESHOLD, device: str = "auto", config: str = ""
    ) -> None:
        """
        Args:
            detector: GroundingDINO's `.pth`; Swin-B where "swinb" is in its name, else Swin-T.
            segmenter: SAM's `.pth`; vit_h, vit_l or vit_b by its name.
            threshold: boxes under this score are dropped.
            device: "auto" is CUDA where there is one.
            config: GroundingDINO's config file, where the package's own does not fit.

        Raises:
            InputError: a file is missing.
        """
        import torch

        for role, path in (("detector", detector), ("segmenter", segmenter)):
            if not Path(path).is_file():
                raise InputError(f"mask.{role}: no checkpoint file {path or '(it is empty)'}; {DEFAULT_INSTEAD}")
        self.name = f"{Path(detector).name} and {Path(segmenter).name}"
        self.threshold = threshold
        self._detector, self._segmenter, self._config = Path(detector), Path(segmenter), config
        self._device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        self._loaded: dict[str, Any] = {}

    def detect(self, image: Image.Image, prompt: str) -> tuple[list[Box], list[float], list[str]]:
        model, predict = self._load_detector()
        # The package's predict() is float32 throughout; half precision is for SAM, which is most of the work.
        found, scores, labels = predict(
            model, _detector_input(image), detector_text(prompt), self.threshold, TEXT_THRESHOLD, device=self._device
        )
        w, h = image.size
        boxes = [
            ((cx - bw / 2) * w, (cy - bh / 2) * h, (cx + bw / 2) * w, (cy + bh / 2) * h)
            for cx, cy, bw, bh in found.tolist()
        ]
        return select_boxes(boxes, scores.tolist(), [plain_label(text, prompt) for text in labels], image.size)

    def masks(self, image: Image.Image, boxes: Sequence[Box], points: Sequence[Point]) -> list[Image.Image]:
        import torch

        predictor = self._load_segmenter()
        dots = np.array([[x, y] for x, y, _ in points]) if points else None
        labels = np.array([int(on) for _, _, on in points]) if points else None
        out = []
        with torch.no_grad(), torch.autocast(self._device.split(":")[0], enabled=self._device.startswith("cuda")):
            predictor.set_image(np.asarray(image.convert("RGB")))
            prompts: list[Box | None] = [*boxes] or [None]
            for box in prompts:
                found, quality, _ = predictor.predict(
                    point_coords=dots,
                    point_labels=labels,
                    box=None if box is None else np.array(box),
                    multimask_output=box is None and len(points) == 1,
                )
                out.append(Image.fromarray(found[int(np.argmax(quality))].astype(np.uint8) * 255))
        return out

    def _load_detector(self) -> Any:
        if "detector" not in self._loaded:
            import transformers

            if not hasattr(transformers.BertModel, "get_extended_attention_mask"):
                raise MissingPackageError(
                    f"groundingdino-py does not run with transformers {transformers.__version__} (it needs 4.x); "
                    f"{DEFAULT_INSTEAD}"
                )
            try:
                import groundingdino.config
                from groundingdino.models import build_model
                from groundingdino.util.inference import predict
                from groundingdino.util.misc import clean_state_dict
                from groundingdino.util.slconfig import SLConfig
            except (ImportError, RuntimeError) as problem:
                raise _missing("groundingdino-py", problem) from problem
            name = (
                "GroundingDINO_SwinB_cfg.py" if "swinb" in self._detector.name.lower() else "GroundingDINO_SwinT_OGC.py"
            )
            arguments = SLConfig.fromfile(self._config or str(Path(groundingdino.config.__path__[0]) / name))
            arguments.device = self._device
            model = build_model(arguments)
            weights = clean_state_dict(_load_pickle(self._detector)["model"])
            absent = [
                key for key in model.load_state_dict(weights, strict=False).missing_keys if "position_ids" not in key
            ]
            if absent:
                raise ModelError(
                    f"{self._detector} lacks {len(absent)} of GroundingDINO's weights, the first {absent[0]}"
                )
            self._loaded["detector"] = (model.to(self._device).eval(), predict)
        return self._loaded["detector"]

    def _load_segmenter(self) -> Any:
        if "segmenter" not in self._loaded:
            try:
                from segment_anything import SamPredictor, sam_model_registry
            except (ImportError, RuntimeError) as problem:
                raise _missing("segment-anything", problem) from problem
            kind = re.search(r"vit_[hlb]", self._segmenter.name)
            if kind is None:
                raise InputError(
                    f"{self._segmenter.name}: a SAM checkpoint's name says vit_h, vit_l or vit_b; rename it"
                )
            model = sam_model_registry[kind.group()]()
            try:
                model.load_state_dict(_load_pickle(self._segmenter))
            except RuntimeError as problem:
                raise ModelError(f"{self._segmenter} is not a SAM {kind.group()}: {first_line(problem)}") from problem
            self._loaded["segmenter"] = SamPredictor(model.to(self._device).eval())
        return self._loaded["segmenter"]


def _missing(package: str, problem: Exception) -> MissingPackageError:
    return MissingPackageError(
        f"{package} cannot be imported ({first_line(problem)}): pip install {package} torchvision; {DEFAULT_INSTEAD}"
    )


def _load_pickle(path: Path) -> Any:
    """A .pth file's tensors; code in a pickle is refused, never run."""
    import torch

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as problem:
        raise ModelError(f"{path} cannot be loaded as plain weights: {first_line(problem)}") from problem


def _detector_input(image: Image.Image) -> Any:
    """(3, h, w) float32: the shorter side at 800 unless the longer passes 1333, ImageNet statistics."""
    import torch

    scale = min(DETECTOR_SIDE / min(image.size), DETECTOR_MAX_SIDE / max(image.size))
    small = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BILINEAR)
    values = torch.from_numpy(np.asarray(small, np.float32) / 255).permute(2, 0, 1)
    return (values - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
