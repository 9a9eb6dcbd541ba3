"""The paper's way to a mask: GroundingDINO finds boxes for the class word, SAM cuts them out.

On transformers' own models, from the hub, its cache or a local folder; safetensors only. No torchvision is needed
for GroundingDINO and SAM; SAM 2 needs it for its image processor.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from singleinsert.errors import InputError, MissingPackageError, ModelError, first_line
from singleinsert.masks.candidates import (
    GIVE_A_MASK,
    THRESHOLD,
    Box,
    Candidate,
    Point,
    area,
    clip_box,
    drop_overlapping,
    pointed_at,
)

DETECTOR = "IDEA-Research/grounding-dino-tiny"
SEGMENTER = "facebook/sam-vit-base"
TEXT_THRESHOLD = 0.25
MAX_CANDIDATES = 8
PROBE_SECONDS = 3.0


def missing_models(*sources: str) -> str:
    """Empty where all of the models are here or the hub answers; otherwise what is missing, for an error line."""
    absent = [source for source in sources if not is_local(source)]
    if not absent or _hub_answers():
        return ""
    verb = "is" if len(absent) == 1 else "are"
    return f"{' and '.join(absent)} {verb} not on this machine and the hub cannot be reached"


def is_local(source: str) -> bool:
    """Whether a model is a folder here, or in the hub's cache."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if Path(source).is_dir():
        return True
    try:
        return isinstance(try_to_load_from_cache(source, "config.json"), str)
    except HFValidationError:  # looks like a path, and is not there
        return False


def _hub_answers() -> bool:
    # Without this, transformers retries an unreachable hub for most of a minute.
    import huggingface_hub

    try:
        huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=PROBE_SECONDS)
    except Exception:
        return False
    return True


class DetectThenCut:
    """A detector and a segmenter: what the two grounded backends share. Models are loaded when first needed."""

    name: str

    def find(self, image: Image.Image, prompt: str) -> list[Candidate]:
        """Boxes for the prompt, each cut out by SAM; best first. RGB in."""
        boxes, scores, labels = self.detect(image, prompt)
        masks = self.masks(image, boxes, ()) if boxes else []
        return [Candidate(*each) for each in zip(masks, boxes, scores, labels, strict=True)]

    def outline(self, image: Image.Image, box: Box | None, points: Sequence[Point]) -> Candidate:
        """SAM's mask for the user's box, points, or both."""
        if box is None and not points:
            raise InputError("nothing marks the subject: give --box left,top,right,bottom or --points x,y")
        mask = self.masks(image, [box] if box else [], points)[0]
        return pointed_at(mask, box)

    def detect(self, image: Image.Image, prompt: str) -> tuple[list[Box], list[float], list[str]]:
        """Boxes in picture pixels, scores in [0, 1] and the words that matched, best first, duplicates dropped."""
        raise NotImplementedError

    def masks(self, image: Image.Image, boxes: Sequence[Box], points: Sequence[Point]) -> list[Image.Image]:
        """One mask per box, or one for the points; of SAM's proposals the one it thinks best."""
        raise NotImplementedError

    def close(self) -> None:
        """Drops the models and gives the device memory back."""
        import torch

        self._loaded: dict[str, Any] = {}
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


class Grounded(DetectThenCut):
    """GroundingDINO and SAM; each is loaded when first needed and held until `close`."""

    def __init__(
        self,
        detector: str = DETECTOR,
        segmenter: str = SEGMENTER,
        *,
        threshold: float = THRESHOLD,
        device: str = "auto",
        half: bool | None = None,
    ) -> None:
        """
        Args:
            detector, segmenter: hub ids or folders; any zero-shot detector that is prompted like GroundingDINO, and
                SAM, SAM-HQ or SAM 2.
            threshold: boxes under this score are dropped.
            device: "auto" is CUDA where there is one.
            half: float16 weights; by default on CUDA only.

        Raises:
            MissingPackageError: transformers is not installed.
        """
        try:
            import torch
            import transformers  # noqa: F401
        except ImportError as problem:
            raise MissingPackageError(
                "finding a mask by name needs transformers: pip install transformers"
            ) from problem
        self.name = f"{Path(detector).name} and {Path(segmenter).name}"
        self.threshold = threshold
        self._sources = {"detector": detector, "segmenter": segmenter}
        self._device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        half = self._device.startswith("cuda") if half is None else half
        self._dtype = torch.float16 if half else torch.float32
        self._loaded: dict[str, tuple[Any, Any]] = {}

    def detect(self, image: Image.Image, prompt: str) -> tuple[list[Box], list[float], list[str]]:
        import torch

        processor, model = self._load("detector")
        inputs = processor(images=image, text=detector_text(prompt), return_tensors="pt").to(self._device, self._dtype)
        with torch.no_grad():
            outputs = model(**inputs)
        outputs.logits, outputs.pred_boxes = outputs.logits.float(), outputs.pred_boxes.float()
        found = processor.post_process_grounded_object_detection(
            outputs,
            inputs["input_ids"],
            threshold=self.threshold,
            text_threshold=TEXT_THRESHOLD,
            target_sizes=[(image.height, image.width)],
        )[0]
        labels = [plain_label(text, prompt) for text in found["text_labels"]]
        return select_boxes(found["boxes"].tolist(), found["scores"].tolist(), labels, image.size)

    def masks(self, image: Image.Image, boxes: Sequence[Box], points: Sequence[Point]) -> list[Image.Image]:
        import torch

        processor, model = self._load("segmenter")
        prompts: dict[str, Any] = {}
        if boxes:
            prompts["input_boxes"] = [[list(map(float, box)) for box in boxes]]
        if points:
            prompts["input_points"] = [[[[float(x), float(y)] for x, y, _ in points]]]
            prompts["input_labels"] = [[[int(on) for _, _, on in points]]]
        inputs = processor(images=image, return_tensors="pt", **prompts).to(self._device, self._dtype)
        sizes = inputs.pop("original_sizes")
        reshaped = inputs.pop("reshaped_input_sizes", None)  # SAM has it, SAM 2 squeezes into a square
        with torch.no_grad():
            # A box says how much is meant; a lone point may mean a part or the whole, so SAM proposes three.
            outputs = model(**inputs, multimask_output=not boxes and len(points) == 1)
        args = (sizes.cpu(),) if reshaped is None else (sizes.cpu(), reshaped.cpu())
        post_process = getattr(processor, "post_process_masks", None) or processor.image_processor.post_process_masks
        masks = post_process(outputs.pred_masks.float().cpu(), *args)[0]
        best = outputs.iou_scores[0].float().argmax(-1).tolist()
        return [Image.fromarray(m[b].numpy().astype(np.uint8) * 255) for m, b in zip(masks, best, strict=True)]

    def _load(self, role: str) -> tuple[Any, Any]:
        if role in self._loaded:
            return self._loaded[role]
        from transformers import AutoModelForMaskGeneration, AutoModelForZeroShotObjectDetection, AutoProcessor

        source = self._sources[role]
        auto = AutoModelForZeroShotObjectDetection if role == "detector" else AutoModelForMaskGeneration
        if absent := missing_models(source):
            raise ModelError(f"{role}: {absent}; give a folder, or {GIVE_A_MASK}")
        try:
            processor = AutoProcessor.from_pretrained(source)
            model = auto.from_pretrained(source, dtype=self._dtype, use_safetensors=True)
        except Exception as problem:
            # SAM 2 and SAM 3 have image processors for torchvision only; transformers says it with a ValueError.
            if isinstance(problem, ImportError) or "Missing optional dependencies" in str(problem):
                raise MissingPackageError(
                    f"{role} {source} needs a package that is not installed, with SAM 2 that is torchvision "
                    f"(pip install torchvision, on a machine with CUDA); {SEGMENTER} runs without"
                ) from problem
            raise ModelError(f"{role} {source} cannot be loaded: {first_line(problem)}") from problem
        self._loaded[role] = (processor, model.to(self._device).eval().requires_grad_(False))
        return self._loaded[role]


def detector_text(prompt: str) -> str:
    """GroundingDINO's form of a prompt: lower case, every phrase closed by a full stop ("hair. wig.")."""
    phrases = [" ".join(phrase.split()).lower() for phrase in prompt.replace(",", ".").split(".")]
    return " ".join(f"{phrase}." for phrase in phrases if phrase)


def plain_label(text: str, prompt: str) -> str:
    """The words that a box matched. Where a separator or the full stop alone brought its score, the prompt."""
    return text.replace("[SEP]", "").replace("[CLS]", "").strip(" .") or prompt


def select_boxes(
    boxes: Sequence[Sequence[float]], scores: Sequence[float], labels: Sequence[str], size: tuple[int, int]
) -> tuple[list[Box], list[float], list[str]]:
    """A detector's raw boxes -> inside the picture, not degenerate, best first, duplicates and the excess dropped."""
    clipped = [clip_box((b[0], b[1], b[2], b[3]), size) for b in boxes]
    real = [i for i, box in enumerate(clipped) if area(box) >= 1]
    kept = drop_overlapping([clipped[i] for i in real], [scores[i] for i in real])[:MAX_CANDIDATES]
    chosen = [real[k] for k in kept]
    return [clipped[i] for i in chosen], [float(scores[i]) for i in chosen], [labels[i] for i in chosen]
