"""Settings: declared in ``fields``, read and checked in ``load``, documented by ``python -m singleinsert.config``."""

from singleinsert.config.fields import (
    FREE_SECTIONS,
    AdapterSettings,
    CaptionSettings,
    ConceptSettings,
    DataSettings,
    MaskSettings,
    ModelSettings,
    RunSettings,
    SampleSettings,
    SaveSettings,
    SceneSettings,
    Settings,
    StageSettings,
)
from singleinsert.config.load import keys_declared, load_settings, preset_names, require, to_toml, values_off

__all__ = [
    "FREE_SECTIONS",
    "AdapterSettings",
    "CaptionSettings",
    "ConceptSettings",
    "DataSettings",
    "MaskSettings",
    "ModelSettings",
    "RunSettings",
    "SampleSettings",
    "SaveSettings",
    "SceneSettings",
    "Settings",
    "StageSettings",
    "keys_declared",
    "load_settings",
    "preset_names",
    "require",
    "to_toml",
    "values_off",
]
