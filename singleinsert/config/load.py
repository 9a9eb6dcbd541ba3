"""Strict TOML -> Settings, and back. Preset, then config file, then flags; the later one wins, key by key.

tomllib reads and toml writes: tomllib cannot write, and toml lets errors in a file pass.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import Field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import toml

from singleinsert.config.fields import Settings, StageSettings
from singleinsert.config.nearest import nearest
from singleinsert.config.templates import check_braces, check_templates
from singleinsert.errors import ConfigError, shown
from singleinsert.names import problem_with_bundled, problem_with_trigger, safe_trigger
from singleinsert.placeholders import names_the_concept
from singleinsert.reading import WHOLE_NUMBERS, expanded, parse_toml, read_toml
from singleinsert.terms import BUNDLED_MODELS, STAGES

RENAMED = {
    "adapter.unet_targets": "adapter.denoiser_targets",
    "adapter.text_encoder_targets": "adapter.text_targets",
}
NO_GAIN = "it brought nothing (docs/research/levers.md)"
DELETED = {
    "antithetic_noise": "it made no difference that mattered: leave the key out",
    **dict.fromkeys(
        ("timestep_decay", "average_steps", "detail_weight", "consistency_beta", "min_snr_share"),
        f"{NO_GAIN}: leave the key out",
    ),
    "painted": f"{NO_GAIN}: leave the section out",
}
"""Keys, or whole sections."""
OLD_VALUES = {"unet": "denoiser", "text_encoder": "text"}
"""Of ``trains``."""

Values = dict[str, Any]
"""Dotted key -> value, such as {"stage1.steps": 50}."""


def load_settings(
    preset: str | None = None, config_file: Path | None = None, overrides: Mapping[str, Any] | None = None
) -> Settings:
    """Settings from a preset, a config file and overrides ("section.key" -> value), the later ones winning.

    A bundled model brings what it needs (its resolution, rates, mask finder) over any preset; the config file and the
    overrides win over that.

    Args:
        preset: a name, or several joined by "+" ("face+sdxl"), the later ones winning.

    Raises:
        ConfigError: one line with the file (or the key), what is wrong and the nearest name that exists.
    """
    chosen: Values = {}
    for name in presets_in(preset or ""):
        chosen |= read_values(preset_path(name))
    written = read_values(Path(config_file)) if config_file is not None else {}
    given = {key: checked_value(key, value, where="") for key, value in (overrides or {}).items()}
    model = (chosen | written | given).get("model.pretrained_model_name_or_path", "")
    brought = presets_folder() / "models" / f"{model}.toml"
    needed = read_values(brought) if model in BUNDLED_MODELS and brought.is_file() else {}
    settings = grow_steps(from_values(chosen | needed | written | given), (written | given).keys())
    check_together(settings)
    return settings


def grow_steps(settings: Settings, given: Collection[str]) -> Settings:
    """Steps for as many concepts as there are, where that is more than they are meant for (``scene.steps_for``).

    A sample names each of n concepts with probability (n + 1) / 2n and trains it alone with 1 / n^2, so that the same
    steps show every one of them less often.

    Args:
        given: keys whose values stay as they are.
    """
    concepts = len(settings.data.class_word) + settings.data.learn_background
    open_stages = {name: stage for name, stage in settings.stages.items() if f"{name}.steps" not in given}
    if not open_stages or not 0 < settings.scene.steps_for < concepts:
        return settings
    times = concepts / settings.scene.steps_for
    grown: Any = {name: replace(stage, steps=round(stage.steps * times)) for name, stage in open_stages.items()}
    return replace(settings, scene=replace(settings.scene, steps_for=concepts), **grown)


def from_values(values: Values) -> Settings:
    """The defaults, changed by values that were checked one by one."""
    by_section: dict[str, Values] = {}
    for key, value in values.items():
        section, name = key.split(".")
        by_section.setdefault(section, {})[name] = value
    defaults = Settings()
    changed = {section: replace(getattr(defaults, section), **part) for section, part in by_section.items()}
    return replace(defaults, **changed)


def to_values(settings: Settings) -> Values:
    """Every key and its value, in the order of declaration."""
    return {key: getattr(getattr(settings, key.split(".")[0]), f.name) for key, f, _ in all_fields()}


def to_toml(settings: Settings) -> str:
    """The whole of the settings as TOML, which :func:`load_settings` reads back to equal settings."""
    tables: dict[str, Values] = {}
    for key, value in to_values(settings).items():
        section, name = key.split(".")
        tables.setdefault(section, {})[name] = list(value) if isinstance(value, tuple) else value
    return toml.dumps(tables, encoder=_Encoder())


class _Encoder(toml.TomlEncoder):
    """toml 0.10 writes broken strings for backslashes before an x (C:\\xampp) and for control characters."""

    def __init__(self) -> None:
        super().__init__()
        self.dump_funcs[str] = toml_string

    def dump_list(self, v: list[Any]) -> str:
        return "[" + ", ".join(str(self.dump_value(item)) for item in v) + "]"


def toml_string(text: str) -> str:
    """A TOML basic string."""
    short = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t"}
    return '"' + re.sub(r'["\\\x00-\x1f\x7f]', lambda m: short.get(m[0], f"\\u{ord(m[0]):04x}"), text) + '"'


def read_values(path: Path) -> Values:
    """The keys of a TOML file, each checked by its declaration."""
    return values_in(read_toml(path), str(path))


def values_in(tables: Mapping[str, Any], path: str) -> Values:
    """The keys of TOML tables, each checked by its declaration; ``path`` says in messages where they stand."""
    values: Values = {}
    for section, table in tables.items():
        if not isinstance(table, dict):
            known = [key for key, _, _ in all_fields()]
            raise ConfigError(f"{path}: key {section!r} stands in no section{_nearest_key(section, known)}")
        if reason := DELETED.get(section):
            raise ConfigError(f"{path}: section [{section}] is gone: {reason}")
        if section not in sections():
            raise ConfigError(f"{path}: unknown section [{section}]{nearest(section, sections())}")
        for name, value in table.items():
            values[f"{section}.{name}"] = checked_value(f"{section}.{name}", value, where=path)
    return values


def presets_folder() -> Path:
    """Beside the package in a checkout, inside it where it was installed (see setup.py)."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "presets"
    return installed if installed.is_dir() else package.parent / "presets"


def examples_folder() -> Path:
    """Likewise, of the pictures of the bundled models' worlds."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "examples"
    return installed if installed.is_dir() else package.parent / "examples"


def with_bundled_photo(settings: Settings) -> Settings | None:
    """The settings of a run that names no picture with the bundled face and a name; None where one is named, or the
    base model is none to try it with."""
    data, run = settings.data, settings.run
    if (
        data.image
        or settings.model.pretrained_model_name_or_path != "mini-sd"
        or data.class_word not in ((), ("face",))
    ):
        return None
    face = replace(data, image=(str(examples_folder() / "portrait.png"),), class_word=("face",))
    return replace(settings, data=face, run=replace(run, output_name=run.output_name or "mexyz"))


def preset_names() -> list[str]:
    """Names that ``--preset`` takes."""
    return sorted(path.stem for path in presets_folder().glob("*.toml"))


def presets_in(text: str) -> list[str]:
    """The names in "face+sdxl"; [] of ""."""
    return text.split("+") if text else []


def preset_path(name: str) -> Path:
    """The preset's file. ConfigError where there is none."""
    if name not in preset_names():
        if name.endswith(".toml") or "/" in name or "\\" in name:
            raise ConfigError(f"--preset takes a name ({', '.join(preset_names())}): give {name} as --config_file")
        raise ConfigError(f"unknown preset {name!r}{nearest(name, preset_names())}")
    return presets_folder() / f"{name}.toml"


def sections() -> list[str]:
    return [f.name for f in fields(Settings)]


@cache
def all_fields() -> tuple[tuple[str, Field[Any], Any], ...]:
    """(dotted key, dataclass field, type) of every setting, in the order of declaration."""
    section_types = get_type_hints(Settings)
    hints = {section: get_type_hints(section_types[section]) for section in sections()}
    return tuple(
        (f"{section}.{f.name}", f, hints[section][f.name])
        for section in sections()
        for f in fields(section_types[section])
    )


@cache
def _declared() -> dict[str, tuple[Field[Any], Any]]:
    return {name: (f, hint) for name, f, hint in all_fields()}


def keys_declared(fact: str) -> frozenset[str]:
    """The dotted keys whose declaration says ``fact`` ("free", "loaded") of them."""
    return frozenset(key for key, f, _ in all_fields() if f.metadata[fact])


def values_off() -> dict[str, Any]:
    """Dotted key -> the value at which it does nothing, of the settings that have one; lists as JSON has them."""
    offs = {key: f.metadata["off"] for key, f, _ in all_fields()}
    return {key: list(off) if isinstance(off, tuple) else off for key, off in offs.items() if off is not None}


def declaration(key: str, where: str = "") -> tuple[Field[Any], Any]:
    """The field and type of a dotted key. ConfigError, with the nearest key, where there is none."""
    known = _declared()
    if key in RENAMED:
        raise ConfigError(f"{_at(where)}{key} is called {RENAMED[key]} now")
    section, _, name = key.rpartition(".")
    if reason := DELETED.get(name) or DELETED.get(section):
        raise ConfigError(f"{_at(where)}{key} is gone: {reason}")
    if key not in known:
        raise ConfigError(f"{_at(where)}unknown key {key}{_nearest_key(key, list(known))}")
    return known[key]


def _nearest_key(key: str, known: list[str]) -> str:
    """A like name in the same section; else the same name in other sections; else any key that reads alike."""
    section, _, name = key.rpartition(".")
    own = {full.split(".")[1]: full for full in known if full.startswith(f"{section}.")}
    alike = difflib.get_close_matches(name, own, n=1)
    if alike:
        return f"; did you mean {own[alike[0]]}?"
    elsewhere = [full for full in known if full.split(".")[1] == name]
    return f"; did you mean {' or '.join(elsewhere)}?" if elsewhere else nearest(key, known)


def checked_value(key: str, value: Any, where: str = "") -> Any:
    """``value`` in the type of ``key``. ConfigError where it is of another type or out of range."""
    field, hint = declaration(key, where)
    if field.metadata["several"] and isinstance(value, str | list | tuple):
        # an empty text, such as a shell's unset variable, names nothing, and not this folder
        value = [item for item in ((value,) if isinstance(value, str) else value) if item != ""]
    value = _typed(f"{_at(where)}{key}", value, hint)
    if field.metadata["path"]:
        value = _at_home(f"{_at(where)}{key}", value)
    low, high = field.metadata["minimum"], field.metadata["maximum"]
    if (low is not None and value < low) or (high is not None and value > high):
        span = f"between {low} and {high}" if high is not None else f"at least {low}"
        raise ConfigError(f"{_at(where)}{key} is {shown(value)}, but must be {span}")
    return value


def _at_home(label: str, paths: Any) -> Any:
    """A path, or a list of them, with ``~`` as the home folder."""
    try:
        return expanded(paths) if isinstance(paths, str) else tuple(expanded(path) for path in paths)
    except ConfigError as problem:
        raise ConfigError(f"{label}: {problem}") from problem


def parse_value(key: str, text: str) -> Any:
    """The value of ``key`` as a command line has it: TOML, but texts need no quotes and lists no brackets.

    What does not parse comes back as the text, for :func:`checked_value` to refuse by name.
    """
    field, hint = declaration(key)
    is_list, several = get_origin(hint) is tuple, field.metadata["several"]
    item = get_args(hint)[0] if is_list else hint
    is_text = item is str or get_origin(item) is Literal
    bare = is_list and not several and not text.startswith("[")
    if bare and is_text:
        return [part.strip() for part in text.split(",") if part.strip()]
    if is_text and (several or not is_list) and not text.startswith(('"', "'", "[") if several else ('"', "'")):
        return text
    try:
        return parse_toml(f"value = [{text}]" if bare else f"value = {text}", key)["value"]
    except ConfigError:
        return text


TYPE_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text in quotes"}


def _typed(label: str, value: Any, hint: Any) -> Any:
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            kind = "a list of texts" if get_args(hint)[0] is str else "a list"
            raise ConfigError(f"{label} must be {kind} in brackets, not {shown(value)}")
        return tuple(_typed(f"{label}[{i}]", item, get_args(hint)[0]) for i, item in enumerate(value))
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        if not isinstance(value, str) or value not in choices:
            hint_at = nearest(value, choices) if isinstance(value, str) else ""
            if isinstance(value, str) and OLD_VALUES.get(value) in choices:
                hint_at = f"; it is called {OLD_VALUES[value]} now"
            raise ConfigError(f"{label} is {shown(value)}, but must be one of {', '.join(choices)}{hint_at}")
        return value
    if hint is float and type(value) is int and value in WHOLE_NUMBERS:
        value = float(value)
    if type(value) is not hint or (hint is float and not math.isfinite(value)):
        raise ConfigError(f"{label} must be {TYPE_NAMES[hint]}, not {shown(value)}")
    if isinstance(value, str) and (problem := _unwritable(value)):
        raise ConfigError(f"{label} {shown(value)} {problem}")
    return value


def _unwritable(text: str) -> str:
    """What is wrong with a text that no file of settings, and no path, could hold; "" where nothing is."""
    if "\0" in text:
        return "holds a zero byte"
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        return "holds bytes that are not UTF-8"
    return ""


def check_together(settings: Settings) -> None:
    """What no single key shows: values that do not go with each other. ConfigError, one line."""
    concept, data, run = settings.concept, settings.data, settings.run
    if concept.type == "vit" and concept.image_size % concept.patch_size:
        raise ConfigError(
            f"concept.image_size {concept.image_size} is no multiple of concept.patch_size {concept.patch_size}"
        )
    if concept.type == "vit" and concept.hidden_size % concept.num_attention_heads:
        raise ConfigError(
            f"concept.hidden_size {concept.hidden_size} is no multiple of "
            f"concept.num_attention_heads {concept.num_attention_heads}"
        )
    if data.resolution % 8:
        nearest_size = round(data.resolution / 8) * 8
        raise ConfigError(f"data.resolution {data.resolution} is no multiple of 8: take {nearest_size}")
    if data.placeholder_token.split() != [data.placeholder_token]:
        raise ConfigError(f"data.placeholder_token {data.placeholder_token!r} must be one word, without spaces")
    if not names_the_concept(data.prompt, data.placeholder_token):
        raise ConfigError(f"data.prompt {data.prompt!r} does not hold {{placeholder}}: nothing in it could be learnt")
    for key, text in (("data.class_prompt", data.class_prompt), ("prior.prompt", settings.prior.prompt)):
        if names_the_concept(text, data.placeholder_token):
            raise ConfigError(f"{key} {text!r} names the concept, unknown to the frozen model")
    if len(data.class_word) > 1 and any(stage.prior_weight for stage in settings.stages.values()):
        raise ConfigError("prior_weight is for one class word: the class pictures show one class")
    templates = {"data.prompt": [data.prompt], "data.class_prompt": [data.class_prompt]}
    templates |= {"prior.prompt": [settings.prior.prompt], "scene.phrase": [settings.scene.phrase]}
    if len(data.class_word) + data.learn_background < 2:  # of several, their names stand in braces too
        templates |= {"sample.prompts": list(settings.sample.prompts)}
    for key, texts in templates.items():
        for text in texts:
            check_braces(key, text)
    if not names_the_concept(settings.scene.phrase, ""):
        raise ConfigError(f"scene.phrase {settings.scene.phrase!r} does not hold {{placeholder}}: no concept is named")
    if "{concepts}" not in settings.scene.prompt:
        raise ConfigError(f"scene.prompt {settings.scene.prompt!r} does not hold {{concepts}}: no concept is named")
    if not settings.stages:
        raise ConfigError(f"{' and '.join(f'{name}.steps' for name in STAGES)} are both 0: there is nothing to train")
    for name, stage in settings.stages.items():
        _check_stage(name, stage)
    scene = settings.scene
    if scene.collection and (more := [key for key in ("flip", "mixes") if getattr(scene, key)]):
        raise ConfigError(f"scene.{more[0]} has no effect with scene.collection: leave one of them out")
    check_templates(settings)
    if Path(run.output_name).name != run.output_name or "\\" in run.output_name:
        raise ConfigError(f"run.output_name {run.output_name!r} must be a file name: the folder is run.output_dir")


def _check_stage(name: str, stage: StageSettings) -> None:
    if not stage.trains:
        raise ConfigError(f"{name}.trains is empty: set {name}.steps to 0 to leave the stage out")
    weights = ["foreground_weight", "background_weight", "semantic_weight"]
    weights += ["attention_weight"] if stage.objective == "break_a_scene" else []
    if stage.objective != "full_image" and not any(getattr(stage, weight) for weight in weights):
        raise ConfigError(f"{name}: {', '.join(weights)} are all 0, there is nothing to learn")


def require(settings: Settings, **flags: str) -> None:
    """ConfigError that names the flag of the first key that is empty.

    ``require(settings, image="the picture to learn from")`` looks at ``data.image`` and names ``--image``.
    """
    for name, meaning in flags.items():
        if not getattr(settings.data, name):
            raise ConfigError(f"--{name} is missing: {meaning}")


def check_name(settings: Settings) -> None:
    """ConfigError where the result's files would refuse NAME, now and not when everything is trained."""
    name, run = settings.name, settings.run
    of = "run.output_name" if run.output_name else f"the name of {settings.data.image[0]}"
    if problem := problem_with_trigger(name):
        better = safe_trigger(name)
        advice = f", such as {better}" if better and not problem_with_trigger(better) else ""
        raise ConfigError(f"{of}, {name!r:.80}, cannot name a concept: {problem}; give another --output_name{advice}")
    if "bundle" in settings.save.formats and not settings.trains_weights:
        raise ConfigError("save.formats bundle is an embedding with a LoRA, and no stage trains one: export webui")
    if "bundle" in settings.save.formats and (problem := problem_with_bundled(name)):
        raise ConfigError(f"{of}, {name!r}: {problem}; give another --output_name")


def _at(where: str) -> str:
    return f"{where}: " if where else ""
