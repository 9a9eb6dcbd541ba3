"""What a batch is asked to do: a TOML file, a table (CSV) or a folder of pictures becomes a list of jobs.

A job is the settings of one run. Its keys are the flags of train_singleinsert.py and ``section.key`` for the rest;
preset < --config_file < [defaults] < the job < flags of the command line.
"""

from __future__ import annotations

import csv
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from singleinsert.cli import FLAGS
from singleinsert.config import Settings, load_settings, preset_names, require
from singleinsert.config.load import check_name, nearest, parse_value
from singleinsert.errors import ConfigError, InputError

NOT_IN_JOBS = ("run.output_dir", "run.resume_from_checkpoint")
OWN_KEYS = ("name", "preset", "config_file")
PATHS = ("data.image", "data.mask")
MASK_END = "_mask"

KINDS = "give a .toml or .csv file, or a folder of pictures"
SEPARATORS = ",;\t"
HIDDEN = ".batch"
"""In a batch's folder: states of the jobs, and what is being worked on."""

Values = dict[str, Any]
Problem = tuple[str, str]
"""(where a job was asked for, what is wrong with it)."""
Written = tuple[str, tuple[Values, ...]]
"""Where a job stands, and what is written there and in what lies under it."""


@dataclass(frozen=True)
class Job:
    """One concept to train.

    Attributes:
        settings: of its run; ``settings.output_dir`` is its folder in the batch's.
        where: where it was asked for, for messages.
    """

    name: str
    settings: Settings
    preset: str
    where: str


@dataclass(frozen=True)
class Asked:
    """A job as written: where, its preset and config file, and ``{"section.key": value}``."""

    where: str
    preset: str
    config_file: str
    values: Values


def read_jobs(
    source: Path, output_dir: Path, *, preset: str = "", config_file: Path | None = None, flags: Values | None = None
) -> tuple[list[Job], list[str]]:
    """The jobs of ``source`` and, a line each, what is wrong with those that are none.

    Args:
        source: a .toml or .csv file, or a folder.
        output_dir: the batch's folder; each job gets one in it.
        preset, config_file: of jobs that name none. flags: ``{"section.key": value}`` for every job.

    Raises:
        InputError, ConfigError: the source as a whole cannot be read.
    """
    jobs: list[Job] = []
    problems: list[Problem] = []
    names: dict[str, str] = {}
    for asked in _asked(source, problems):
        try:
            job = _job(asked, output_dir, preset, config_file, flags or {})
            other = names.setdefault(job.name.lower(), asked.where)  # file systems and WebUIs overlook case
            if other != asked.where:
                raise ConfigError(f"its name {job.name} is that of {other}: set name")
            jobs.append(job)
        except (ConfigError, InputError) as problem:
            problems.append((asked.where, str(problem)))
    if not jobs and not problems:
        raise InputError(f"{source} holds no jobs")
    return jobs, a_line_each(problems)


def a_line_each(problems: Iterable[Problem]) -> list[str]:
    """One line for each thing that is wrong, however many jobs it is wrong with: [defaults] and headings are of all."""
    places: dict[str, list[str]] = {}
    for where, what in problems:
        places.setdefault(what, []).append(where)
    return [f"{first}{f' and {len(more)} more' if more else ''}: {what}" for what, (first, *more) in places.items()]


def _job(asked: Asked, output_dir: Path, preset: str, config_file: Path | None, flags: Values) -> Job:
    chosen = asked.preset or preset
    values = asked.values | flags
    file = Path(asked.config_file) if asked.config_file else config_file
    name = load_settings(chosen or None, file, values).name
    values |= {"run.output_dir": str(output_dir / name), "run.output_name": name}
    settings = load_settings(chosen or None, file, values)
    require(settings, image="the picture to learn from", class_word="what it shows, such as face or cat")
    check_name(settings)
    return Job(name, settings, chosen, asked.where)


def _asked(source: Path, problems: list[Problem]) -> Iterator[Asked]:
    if not source.exists():
        raise InputError(f"{source}: not found; {KINDS}")
    if source.is_dir():
        rows, where = _from_folder(source), ""
    elif source.suffix.lower() == ".csv":
        rows, where = _from_csv(source), f"{source} "
    elif source.suffix.lower() == ".toml":
        rows, where = _from_toml(source), f"{source} "
    else:
        raise InputError(f"{source}: no list of jobs; {KINDS}")
    for label, layers in rows:
        try:
            yield _one(f"{where}{label}", layers, source)
        except ConfigError as problem:
            problems.append((f"{where}{label}", str(problem)))


def _one(where: str, layers: Iterable[Values], source: Path) -> Asked:
    """``layers``: what was written, the later ones winning, however each writes a setting (seed, run.seed, [run])."""
    own: dict[str, str] = {}
    values: Values = {}
    for layer in layers:
        own |= {key: str(layer[key]) for key in OWN_KEYS if key in layer}
        values |= dict(_keys({key: value for key, value in layer.items() if key not in OWN_KEYS}))
    if source.suffix.lower() == ".csv":
        values = {key: parse_value(key, text) for key, text in values.items()}
    if "name" in own:
        values["run.output_name"] = own["name"]
    values |= {key: _paths(values[key], source) for key in PATHS if values.get(key)}
    file = _path(own["config_file"], source) if "config_file" in own else ""
    return Asked(where, own.get("preset", ""), file, values)


def _paths(given: Any, source: Path) -> list[str]:
    return [_path(text, source) for text in (given if isinstance(given, list | tuple) else [given])]


def _path(text: Any, source: Path) -> str:
    """Paths in a list of jobs are seen from its folder; those of a folder are whole already."""
    return str(text) if source.is_dir() else str(source.parent / str(text))


def _keys(row: Mapping[str, Any], section: str = "") -> Iterator[tuple[str, Any]]:
    """Flags and tables as ``section.key``; a key that no section has goes on, to be refused by name."""
    for key, value in row.items():
        if isinstance(value, dict):
            yield from _keys(value, f"{section}.{key}" if section else key)
            continue
        full = f"{section}.{key}" if section else FLAGS.get(key, key)
        if full in NOT_IN_JOBS:
            raise ConfigError(f"{key} is the batch's to decide: leave it out")
        if "." not in full:
            raise ConfigError(f"unknown key {key}{nearest(key, [*OWN_KEYS, *FLAGS])}")
        yield full, value


def _from_toml(source: Path) -> Iterator[Written]:
    try:
        content = tomllib.loads(source.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as problem:
        raise InputError(f"{source} cannot be read: {problem}") from problem
    if unknown := set(content) - {"job", "defaults"}:
        first = sorted(unknown)[0]
        raise ConfigError(f"{source}: unknown part {first}{nearest(first, ['job', 'defaults'])}")
    jobs, defaults = content.get("job", []), content.get("defaults", {})
    if not isinstance(jobs, list) or not isinstance(defaults, dict):
        raise ConfigError(f"{source}: write [[job]], twice bracketed, and [defaults]")
    for number, job in enumerate(jobs, start=1):
        yield f"job {number}", (defaults, job)


def _from_csv(source: Path) -> Iterator[Written]:
    """A row a job; an empty cell is not said. As spreadsheets write it: with a byte order mark, ``;`` or tabs."""
    try:
        text = source.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as problem:
        raise InputError(f"{source} is not in UTF-8: save it as CSV UTF-8") from problem
    except OSError as problem:
        raise InputError(f"{source} cannot be read: {problem}") from problem
    lines = text.splitlines(keepends=True)
    start = next((i for i, line in enumerate(lines) if line.strip() and not line.lower().startswith("sep=")), 0)
    separator = max(SEPARATORS, key=lines[start].count) if lines else ","
    table = csv.DictReader(lines[start:], delimiter=separator, skipinitialspace=True)
    for row in table:
        number = start + table.line_num
        if any(row.pop(None, ())):  # DictReader's place for them
            raise ConfigError(f"{source} line {number} has more cells than the first line has names")
        cells = {key.strip(): value.strip() for key, value in row.items() if value and value.strip()}
        if cells:
            yield f"line {number}", (cells,)


def _from_folder(source: Path) -> Iterator[Written]:
    """``source/face/*.jpg`` are faces; pictures in ``source`` itself are of --class_word. STEM_mask.png is a mask."""
    from singleinsert.masks.batch import PICTURE_SUFFIXES

    if (source / HIDDEN).is_dir():
        raise InputError(f"{source} holds what a batch wrote, not photos; {KINDS}")

    def pictures(folder: Path) -> list[Path]:
        files = sorted(p for p in folder.iterdir() if p.suffix.lower() in PICTURE_SUFFIXES and p.is_file())
        files = [p for p in files if not p.name.startswith(".")]  # macOS puts ._anna.jpg beside anna.jpg
        stems = {path.stem for path in files}
        return [p for p in files if not (p.stem.endswith(MASK_END) and p.stem.removesuffix(MASK_END) in stems)]

    folders = sorted(p for p in source.iterdir() if p.is_dir() and not p.name.startswith("."))
    found = [(path, "") for path in pictures(source)] + [(p, f.name) for f in folders for p in pictures(f)]
    stems = [path.stem.lower() for path, _ in found]
    for path, kind in found:
        row: Values = {"image": str(path)}
        masks = [path.with_name(f"{path.stem}{MASK_END}{end}") for end in PICTURE_SUFFIXES]
        mask = next((mask for mask in masks if mask.is_file()), None)
        row |= {"mask": str(mask)} if mask else {}
        if kind:
            row["class_word"] = kind.replace("_", " ")
            row |= {"preset": kind} if kind in preset_names() else {}
        if stems.count(path.stem.lower()) > 1:  # face/1.jpg and cat/1.jpg; 1.jpg and 1.png are still refused
            row["name"] = f"{kind}_{path.stem}" if kind else path.stem
        yield str(path), (row,)
