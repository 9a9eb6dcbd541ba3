"""One line for what goes wrong on the way to a model on the hub."""

from __future__ import annotations

from pathlib import Path

from singleinsert.errors import ModelError, first_line


def hub_error(source: str | Path, error: Exception, otherwise: str) -> ModelError:
    """One line for what diffusers, transformers or the hub's client raised.

    diffusers says of a file that could not be asked for that it is not there: what was raised before tells.
    """
    raised: BaseException | None = error
    said = ""
    while raised is not None:
        said += f"{type(raised).__name__}: {raised} "
        raised = raised.__cause__ or raised.__context__
    if any(sign in said for sign in ("cached locally", "cached files", "LocalEntryNotFound", "offline")):
        return ModelError(
            f"{source}: the hub was not reached, and the model is not in its cache: give a folder in diffusers' "
            "layout or a .safetensors file, or go online (without HF_HUB_OFFLINE)"
        )
    return ModelError(f"{source}: {otherwise}: {first_line(error)}")
