"""Methods to compare, as data: each is what it changes in a preset's settings. Sets of them are TOML files.

    title = "..."

    [[method]]
    name = "stage1-baseline"           # of files
    label = "baseline"                 # of rows in tables, under a group's heading
    group = "Stage I"
    note = "..."                       # a line for the reader; may be left out
    settings.stage1.objective = "full_image"
    preset.mini.stage1.steps = 100     # more, where the preset is mini
    model.mini-scenes.stage1.steps = 9 # more, where the base model is this bundled one
    like = "stage1-fg"                 # another row above, of which this one changes something; it has no label of it
    base = "scene-paper"               # the preset that it changes, in the place of --preset
    apart = true                       # of a scene: a run for each concept, all of them loaded together
    merged = true                      # its LoRAs joined in closed form (singleinsert.merge); of one run: gated
    not_with = ["mini"]                # presets with which this method cannot be had
    paper = { ESR = 0.19 }             # published values, by column
    caption = "case3"                  # the description is in photo.case3.txt beside photo.jpg
    negative = "description"           # names in the negative prompt what the description does; or a text of its own
    masked = true                      # it needs a mask: left out for styles, which have none

    [[published]]                      # a row that is not run: a paper's values alone, and why
    label = "..."
    why = "..."
    paper = { ESR = 0.19 }

    [[claim]]
    says = "..."
    column = "ESR"
    of = "stage1-fg-bg"
    against = "stage1-fg"
    direction = "up"                   # or "down"

A claim is what is said of two rows, to be checked against what is found.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from singleinsert.captions.phrases import split_caption
from singleinsert.config import Settings
from singleinsert.config.load import (
    check_together,
    checked_value,
    from_values,
    nearest,
    preset_names,
    presets_in,
    to_values,
)
from singleinsert.data.captions import read_caption, with_concept
from singleinsert.errors import ConfigError
from singleinsert.evaluate.columns import COLUMNS
from singleinsert.evaluate.lists import check_keys, names_in, read_list
from singleinsert.terms import BUNDLED_MODELS

FOLDER = Path(__file__).resolve().parent / "methods"
DESCRIPTION = "description"
KEYS = (
    "name", "label", "group", "note", "settings", "preset", "model", "like", "base", "apart", "merged", "not_with",
    "paper", "caption", "negative", "masked",
)  # fmt: skip


@dataclass(frozen=True)
class Method:
    """One row of a table.

    Attributes:
        settings: ``{"section.key": value}`` over the preset. for_preset, for_model: more of them, by preset and by
            bundled base model; the later of the three wins.
        base: the preset that it changes; "" for the evaluation's. apart: each concept of a scene has a run of its own.
        merged: what the runs have learnt is joined in closed form; of one run that is its change, gated.
        paper: published values by column.
        caption: of the descriptions beside the picture, the one of this name. negative: prompt to draw with; that of
            "description" names what the description does. masked: it needs a mask.
    """

    name: str
    label: str
    group: str = ""
    note: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    for_preset: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    for_model: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    base: str = ""
    apart: bool = False
    merged: bool = False
    not_with: tuple[str, ...] = ()
    paper: Mapping[str, float] = field(default_factory=dict)
    caption: str = ""
    negative: str = ""
    masked: bool = False

    @property
    def full_label(self) -> str:
        return f"{self.group}: {self.label}" if self.group else self.label

    def preset_of_runs(self, preset: str) -> str:
        """The preset of its runs under ``--preset``: :attr:`base` stands in the place of the first that is named there
        ("scene-paper+sdxl" for "scene+sdxl")."""
        first, *more = presets_in(preset)
        return "+".join([self.base or first, *more])

    def applied(self, base: Settings, preset: str) -> Settings:
        """``base`` with what the method changes. ConfigError where that does not go together."""
        changes = dict(self.settings)
        for name in presets_in(preset):
            changes |= self.for_preset.get(name, {})
        changes |= self.for_model.get(base.model.pretrained_model_name_or_path, {})
        if self.caption:
            changes["data.description"] = tuple(self._description(Path(image)) for image in base.data.image)
        settings = from_values(to_values(base) | changes)
        try:
            check_together(settings)
        except ConfigError as problem:
            raise ConfigError(f"method {self.name}: {problem}") from problem
        return settings

    def _description(self, image: Path) -> str:
        found = read_caption(image.with_suffix(f".{self.caption}{image.suffix}"))
        if found is None:
            raise ConfigError(f"method {self.name}: {image.with_suffix('')}.{self.caption}.txt is missing")
        return found

    def negative_prompt(self, settings: Settings) -> str:
        """What pictures of a concept that was trained with ``settings`` are drawn without.

        Raises:
            ConfigError: it is to be made from a description, and there is none.
        """
        if self.negative != DESCRIPTION:
            return self.negative
        image, word = Path(settings.data.image[0]), settings.data.class_word[0]
        text = (settings.data.description or (read_caption(image) or "",))[0]
        if not text:
            raise ConfigError(f"method {self.name}: there is no description of {image.name} to make a negative of")
        from singleinsert.captions.geometry import thing_of  # torch comes with it, and --help asks for the sets' names

        phrases = split_caption(with_concept(text, word), word)
        return ", ".join(thing_of(phrase.text) for phrase in phrases if phrase.role != "subject")


@dataclass(frozen=True)
class Published:
    """A row of a paper's table that is not run, and why."""

    label: str
    why: str
    paper: Mapping[str, float]


@dataclass(frozen=True)
class MethodSet:
    """Methods that are compared with each other, in the order of their rows."""

    name: str
    title: str
    methods: tuple[Method, ...]
    claims: tuple[Mapping[str, str], ...] = ()
    published: tuple[Published, ...] = ()

    def with_preset(self, preset: str) -> MethodSet:
        """Without those that cannot be had with ``preset``."""
        return self.only([m.name for m in self.methods if not {*m.not_with} & {*presets_in(preset)}])

    def check_preset(self, preset: str) -> None:
        """ConfigError where every row of the whole set stands on a preset of its own, none of them ``preset``."""
        own = list(dict.fromkeys(method.base for method in self.methods))
        if "" not in own and (first := presets_in(preset)[0]) not in own:
            raise ConfigError(
                f"--preset {first}: every row of {self.name} stands on a preset of its own ({', '.join(own)}); "
                f"what others are to be joined to them is said as --preset {own[0]}+NAME"
            )

    def only(self, names: Collection[str]) -> MethodSet:
        """The methods of these names, and the claims about them. ConfigError for a name that is none."""
        for name in names:
            if name not in {method.name for method in self.methods}:
                raise ConfigError(f"no method {name!r}{nearest(name, [method.name for method in self.methods])}")
        claims = tuple(claim for claim in self.claims if {claim["of"], claim["against"]} <= set(names))
        return replace(self, methods=tuple(m for m in self.methods if m.name in names), claims=claims)


def set_names() -> list[str]:
    """The sets that come with the package."""
    return names_in(FOLDER)


def load_methods(source: str | Path) -> MethodSet:
    """A set by its name or file.

    Raises:
        ConfigError: no such set, an unknown key or setting, two methods of one name; one line.
    """
    path, table = read_list(source, FOLDER, "set of methods", "method", ("claim", "published"))
    methods: list[Method] = []
    for i, row in enumerate(table["method"], start=1):
        methods.append(_method(row, f"{path} method {i}", {method.name: method for method in methods}))
    names = [method.name for method in methods]
    if len(set(names)) < len(names):
        raise ConfigError(f"{path}: two methods are called {max(names, key=names.count)}")
    claims = tuple(_claim(row, names, f"{path} claim {i}") for i, row in enumerate(table.get("claim", []), start=1))
    rows = enumerate(table.get("published", []), start=1)
    published = tuple(_published(row, f"{path} published {i}") for i, row in rows)
    return MethodSet(path.stem, str(table["title"]), tuple(methods), claims, published)


def _published(row: Any, where: str) -> Published:
    keys = ("label", "why", "paper")
    check_keys(row, keys, keys, where)
    return Published(str(row["label"]), str(row["why"]), _paper(row["paper"], where))


def _claim(row: Any, names: Collection[str], where: str) -> dict[str, str]:
    keys = ("says", "column", "of", "against", "direction")
    check_keys(row, keys, keys, where)
    for key, known in (("column", COLUMNS), ("of", names), ("against", names), ("direction", ("up", "down"))):
        if row[key] not in known:
            raise ConfigError(f"{where}: {key} {row[key]!r}{nearest(str(row[key]), known)}")
    return dict(row)


def _method(row: Any, where: str, above: Mapping[str, Method]) -> Method:
    check_keys(row, KEYS, ("name", "label"), where)
    name = str(row["name"])
    if not name or Path(name).name != name or name.startswith("."):
        raise ConfigError(f"{where}: name {name!r} must be a file name")
    extra = {}
    for key, known in (("preset", preset_names()), ("model", BUNDLED_MODELS)):
        check_keys(row.get(key, {}), tuple(known), (), f"{where} {key}")
        extra[key] = {name: dict(_settings(table, f"{where} {key}.{name}")) for name, table in row.get(key, {}).items()}
    settings = dict(_settings(row.get("settings", {}), where))
    like = above.get(str(row.get("like", "")), Method("", ""))
    if not like.name and "like" in row:
        raise ConfigError(f"{where}: like {row['like']!r} is no row above it{nearest(str(row['like']), above)}")
    base = str(row.get("base", like.base))
    apart, merged = row.get("apart", like.apart), row.get("merged", like.merged)
    if base and base not in preset_names():
        raise ConfigError(f"{where}: base {base!r} is no preset{nearest(base, preset_names())}")
    for key, value in (("apart", apart), ("merged", merged)):
        if not isinstance(value, bool):
            raise ConfigError(f"{where}: {key} is true or false, not {value!r}")
    return Method(
        name=name, label=str(row["label"]), group=str(row.get("group", "")), note=str(row.get("note", "")),
        settings={**like.settings, **settings}, for_preset=_over(like.for_preset, settings, extra["preset"]),
        for_model=_over(like.for_model, settings, extra["model"]), base=base, apart=apart, merged=merged,
        not_with=tuple(row.get("not_with", like.not_with)), paper=_paper(row.get("paper", {}), where),
        caption=str(row.get("caption", like.caption)), negative=str(row.get("negative", like.negative)),
        masked=bool(row.get("masked", like.masked)),
    )  # fmt: skip


def _over(
    like: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Any], own: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """What holds for a preset or model: the other row's, but for what this row sets for all of them, and its own."""
    kept = {name: {k: v for k, v in table.items() if k not in settings} for name, table in like.items()}
    return {name: {**kept.get(name, {}), **own.get(name, {})} for name in (*like, *own)}


def _settings(table: Mapping[str, Any], where: str, section: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        full = f"{section}.{key}" if section else key
        if isinstance(value, dict):
            yield from _settings(value, where, full)
        else:
            yield full, checked_value(full, value, where=where)


def _paper(values: Mapping[str, Any], where: str) -> dict[str, float]:
    check_keys(values, tuple(COLUMNS), (), f"{where} paper")
    return {key: float(value) for key, value in values.items()}
