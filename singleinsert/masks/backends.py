"""Which backend looks for the mask. Each is imported when it is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from singleinsert.errors import ConfigError, InputError
from singleinsert.masks.candidates import GIVE_A_MASK, THRESHOLD, Segmenter


@dataclass(frozen=True)
class Request:
    """What a backend is opened with."""

    threshold: float
    detector: str
    segmenter: str
    device: str


def _grounded(request: Request) -> Segmenter:
    from singleinsert.masks.grounded import DETECTOR, SEGMENTER, Grounded

    return Grounded(
        request.detector or DETECTOR, request.segmenter or SEGMENTER, threshold=request.threshold, device=request.device
    )


def _original(request: Request) -> Segmenter:
    from singleinsert.masks.original import Original

    return Original(request.detector, request.segmenter, threshold=request.threshold, device=request.device)


def _cascade(request: Request) -> Segmenter:
    from singleinsert.masks.cascade import FaceCascade

    return FaceCascade(threshold=request.threshold)


def _grabcut(request: Request) -> Segmenter:
    from singleinsert.masks.grabcut import GrabCut

    return GrabCut()


def _mini(request: Request) -> Segmenter:
    from singleinsert.masks.mini import MiniSegmenter, segmenter_folder

    return MiniSegmenter(segmenter_folder(request.segmenter), threshold=request.threshold)


BACKENDS: dict[str, Callable[[Request], Segmenter]] = {
    "grounded": _grounded,
    "original": _original,
    "cascade": _cascade,
    "grabcut": _grabcut,
    "mini": _mini,
}


class Backends:
    """Opens what a mask needs when it needs it, and keeps it for the next picture until `close`.

    "auto" takes the grounded models where they are here or can be fetched; otherwise a face by the cascade. What the
    user points at is cut out by SAM where it is here, otherwise by GrabCut: nothing is fetched for that.
    """

    def __init__(
        self,
        name: str = "auto",
        *,
        threshold: float = THRESHOLD,
        detector: str = "",
        segmenter: str = "",
        device: str = "auto",
    ) -> None:
        """
        Raises:
            ConfigError: unknown name.
        """
        if name not in ("auto", "alpha", *BACKENDS):
            raise ConfigError(f"mask backend {name!r} is unknown: auto, alpha, {', '.join(BACKENDS)}")
        self.name = name
        self._request = Request(threshold, detector, segmenter, device)
        self._open: dict[str, Segmenter] = {}

    def get(self, words: str, *, pointed: bool, notes: list[str]) -> Segmenter:
        """The backend for these words.

        Args:
            pointed: the user gives a box or points, so nothing has to be looked for.
            notes: gets a sentence where "auto" has to do without the grounded models.

        Raises:
            InputError: "auto" has nothing that could find these words, and "alpha" finds none.
        """
        if self.name == "alpha":
            raise InputError(f"mask.backend alpha reads a picture's own mask, and cannot look for {words!r}")
        name = self._automatic(words, pointed, notes) if self.name == "auto" else self.name
        if name not in self._open:
            self._open[name] = BACKENDS[name](self._request)
        return self._open[name]

    def _automatic(self, words: str, pointed: bool, notes: list[str]) -> str:
        from singleinsert.masks.cascade import is_face
        from singleinsert.masks.grounded import DETECTOR, SEGMENTER, is_local, missing_models

        detector, segmenter = self._request.detector, self._request.segmenter
        if Path(detector).suffix == ".pth" or Path(segmenter).suffix == ".pth":
            return "original"
        if pointed:
            return "grounded" if is_local(segmenter or SEGMENTER) else "grabcut"
        missing = "" if "grounded" in self._open else missing_models(detector or DETECTOR, segmenter or SEGMENTER)
        if not missing:
            return "grounded"
        if not is_face(words):
            raise InputError(f"no mask, and no way to find {words}: {missing}; {GIVE_A_MASK}")
        notes.append(f"{missing}: opencv's face cascade looked instead")
        return "cascade"

    def close(self) -> None:
        """Frees every backend that was opened."""
        for backend in self._open.values():
            backend.close()
        self._open.clear()

    def __enter__(self) -> Backends:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
