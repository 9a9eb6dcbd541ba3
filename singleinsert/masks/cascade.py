"""Faces in a photo on a fresh offline machine: opencv's own cascades find them, GrabCut outlines them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from singleinsert.errors import InputError, MissingPackageError
from singleinsert.masks.candidates import (
    GIVE_A_MASK,
    THRESHOLD,
    Box,
    Candidate,
    Point,
    box_iou,
    clip_box,
    drop_overlapping,
)
from singleinsert.masks.grabcut import (
    BACKGROUND,
    LIKELY_BACKGROUND,
    LIKELY_SUBJECT,
    SUBJECT,
    Ellipse,
    GrabCut,
    cut,
    import_cv2,
)

FACE_WORDS = ("face", "faces")
CASCADES = ("haarcascade_frontalface_default.xml", "haarcascade_frontalface_alt2.xml")
DETECTION_SIDE = 1024
MIN_FACE = 24
SAME_FACE = 0.5
HALF_SURE_VOTES = 10.0
"""Overlapping hits at which one cascade is half sure; true faces bring 30 and more, accidents a handful."""

# A cascade's square runs from the brow to above the chin. The hairline, the ears and the neck are outside of the last
# ellipse or found by colour; its lower edge keeps the neck, which has the face's colours, out.
FACE_PRIOR = (
    Ellipse(LIKELY_BACKGROUND, (0.5, 0.58), (0.6, 0.64)),
    Ellipse(LIKELY_SUBJECT, (0.5, 0.6), (0.47, 0.6)),
    Ellipse(SUBJECT, (0.5, 0.62), (0.3, 0.36)),
)


def is_face(prompt: str) -> bool:
    """Whether a class word asks for a face ("face", "woman's face")."""
    return any(word in FACE_WORDS for word in prompt.lower().replace(".", " ").split())


class FaceCascade:
    """Frontal faces, nothing else."""

    name = "face cascade and GrabCut"

    def __init__(self, *, threshold: float = THRESHOLD) -> None:
        self.threshold = threshold
        cv2 = import_cv2()
        if not hasattr(cv2, "CascadeClassifier"):
            raise MissingPackageError(
                f"opencv 5 has no face cascades: pip install 'opencv-python-headless<5', or {GIVE_A_MASK}"
            )
        self._cascades = [cv2.CascadeClassifier(cv2.data.haarcascades + name) for name in CASCADES]

    def find(self, image: Image.Image, prompt: str) -> list[Candidate]:
        """Faces, best first.

        Raises:
            InputError: `prompt` is not a face.
        """
        if not is_face(prompt):
            raise InputError(f"the face cascade finds faces only, not {prompt!r}: {GIVE_A_MASK}")
        found = [(box, score) for box, score in self.detect(image) if score >= self.threshold]
        masks = [cut(image, box, FACE_PRIOR, inside=BACKGROUND) for box, _ in found]
        return [
            Candidate(mask, clip_box(box, image.size), score, "face")
            for mask, (box, score) in zip(masks, found, strict=True)
        ]

    def detect(self, image: Image.Image) -> list[tuple[Box, float]]:
        """Squares of faces in picture pixels, with a score in [0, 1], best first.

        The score is the mean over the cascades of n / (n + 10), n the number of overlapping hits: one cascade alone
        cannot pass a half, which is what keeps patterns from being taken for faces.
        """
        cv2 = import_cv2()
        scale = min(1.0, DETECTION_SIDE / max(image.size))
        small = image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.BOX)
        grey = cv2.equalizeHist(np.asarray(small.convert("L")))
        hits = [self._hits(cascade, grey) for cascade in self._cascades]
        boxes = [box for per in hits for box, _ in per]
        scores = [
            float(
                np.mean([max((v for other, v in per if box_iou(box, other) > SAME_FACE), default=0.0) for per in hits])
            )
            for box in boxes
        ]
        kept = drop_overlapping(boxes, scores, SAME_FACE)
        sx, sy = image.width / small.width, image.height / small.height
        return [((b[0] * sx, b[1] * sy, b[2] * sx, b[3] * sy), scores[i]) for i in kept for b in [boxes[i]]]

    def _hits(self, cascade: Any, grey: np.ndarray) -> list[tuple[Box, float]]:
        found, votes = cascade.detectMultiScale2(grey, scaleFactor=1.1, minNeighbors=3, minSize=(MIN_FACE, MIN_FACE))
        return [
            ((float(x), float(y), float(x + w), float(y + h)), float(n / (n + HALF_SURE_VOTES)))
            for (x, y, w, h), n in zip(found, votes, strict=True)
        ]

    def outline(self, image: Image.Image, box: Box | None, points: Sequence[Point]) -> Candidate:
        """GrabCut in the user's box or around the user's points."""
        return GrabCut().outline(image, box, points)

    def close(self) -> None:
        """Nothing that is worth freeing."""
