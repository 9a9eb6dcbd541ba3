"""Is a base model there, or is it to be fetched from the hub? Seen without loading anything."""

from __future__ import annotations

import re
from pathlib import Path

from singleinsert.errors import ModelError
from singleinsert.models.bundled import place_of_model
from singleinsert.terms import BUNDLED_MODELS


def check_source(source: str, variant: str | None = None) -> None:
    """ModelError where ``model.pretrained_model_name_or_path`` can be seen to be none that loads."""
    from singleinsert.models.loading import check_folder
    from singleinsert.models.single_file import check_checkpoint

    place = Path(place_of_model(source))
    if "," in source and not place.exists():
        check_checkpoint(source)
    elif place.is_dir():
        check_folder(place, variant)
    elif place.is_file():
        check_checkpoint(place)
    elif not looks_like_hub_id(source):
        raise ModelError(f"no model folder {source}: give a diffusers folder, a .safetensors file or a hub id")
    elif not is_cached(source) and hub_is_off():
        raise ModelError(f"{source} is not in the hub's cache, and HF_HUB_OFFLINE forbids to fetch it")


def is_to_fetch(source: str) -> bool:
    """Whether loading the model would fetch it from the hub."""
    here = source in BUNDLED_MODELS or Path(source).exists()
    return not here and looks_like_hub_id(source) and not is_cached(source) and not hub_is_off()


def megabytes_to_fetch(source: str, variant: str | None = None) -> int | None:
    """Of the weights of a model on the hub, in a format and variant that is loaded; None where the hub does not say."""
    from huggingface_hub import HfApi

    from singleinsert.models.loading import FAMILIES

    try:
        files = HfApi().model_info(source, files_metadata=True, timeout=10).siblings or []
    except Exception:  # the network's and the hub's errors are of many kinds, and none of them is a problem here
        return None
    parts = "|".join(sorted({part for family in FAMILIES for part in family.weight_parts}))
    middle = re.escape(f".{variant}") if variant else ""
    weights = re.compile(rf"({parts})/[^/]*model{middle}(-\d+-of-\d+)?\.safetensors")
    wanted = [file for file in files if weights.fullmatch(file.rfilename)]
    return round(sum(file.size or 0 for file in wanted) / 1e6) if wanted else None


def looks_like_hub_id(source: str) -> bool:
    """Whether a model that is neither file nor folder may be one of the hub's, OWNER/NAME."""
    return source.count("/") == 1 and not source.startswith((".", "/", "~")) and "\\" not in source


def is_cached(source: str) -> bool:
    """Whether the hub's model was fetched before."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(source, "model_index.json"), str)
    except HFValidationError:
        return False


def hub_is_off() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)
