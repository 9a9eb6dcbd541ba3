"""Settings: declared in ``fields``, read and checked in ``load``, documented by ``python -m singleinsert.config``."""

from singleinsert.config.fields import (
    MINI_SD_NAME,
    AdapterSettings,
    CaptionSettings,
    ConceptSettings,
    DataSettings,
    MaskSettings,
    ModelSettings,
    RunSettings,
    SampleSettings,
    SaveSettings,
    Settings,
    StageSettings,
)
from singleinsert.config.load import load_settings, preset_names, require, to_toml

__all__ = [
    "MINI_SD_NAME",
    "AdapterSettings",
    "CaptionSettings",
    "ConceptSettings",
    "DataSettings",
    "MaskSettings",
    "ModelSettings",
    "RunSettings",
    "SampleSettings",
    "SaveSettings",
    "Settings",
    "StageSettings",
    "load_settings",
    "preset_names",
    "require",
    "to_toml",
]
