"""The checks that need models of their own: rho, by the base model; places, by the mask backend."""

from __future__ import annotations

import argparse

from singleinsert.captions.ask import best_device
from singleinsert.captions.geometry import Placement, place_phrases
from singleinsert.captions.phrases import Phrase
from singleinsert.captions.rho import Rho, frozen_errors, phrase_rhos
from singleinsert.captions.tied import find_in
from singleinsert.config import Settings
from singleinsert.data.pictures import Picture, crop_to_square
from singleinsert.masks import Backends, find_mask
from singleinsert.models.bundled import place_of_model
from singleinsert.models.family import Family
from singleinsert.models.loading import load_base_model


class Further:
    """The checks that need models of their own, opened when they are first asked for."""

    def __init__(self, args: argparse.Namespace, settings: Settings) -> None:
        self._args, self._settings = args, settings
        mask = settings.mask
        self._base = _base_model(settings, args.device) if args.rho else None
        self._backends: Backends | None = None
        if args.places:
            self._backends = Backends(
                mask.backend, threshold=mask.threshold, detector=mask.detector, segmenter=mask.segmenter
            )

    def rhos(self, picture: Picture, caption: str, phrases: tuple[Phrase, ...], word: str) -> list[Rho | None]:
        if self._base is None:
            return [None] * len(phrases)
        square = crop_to_square(picture, None, "pad")
        error_of = frozen_errors(self._base, square.image, self._args.resolution or self._base.native_resolution)
        return [*phrase_rhos(error_of, caption, phrases, word)]

    @property
    def looks_for_places(self) -> bool:
        return self._backends is not None

    def places(self, picture: Picture, phrases: tuple[Phrase, ...], word: str) -> list[Placement | None]:
        if self._backends is None:
            return [None] * len(phrases)
        backends = self._backends
        subject = find_mask(picture, word, file=self._args.mask, backends=backends).mask
        return place_phrases(phrases, subject, find_in(picture, backends))

    def __enter__(self) -> Further:
        return self

    def __exit__(self, *_: object) -> None:
        if self._backends is not None:
            self._backends.close()


def _base_model(settings: Settings, device: str) -> Family:
    model = settings.model
    return load_base_model(
        place_of_model(model.pretrained_model_name_or_path), revision=model.revision or None,
        variant=model.variant or None, device=best_device(device), prediction_type=model.prediction_type,
    )  # fmt: skip
