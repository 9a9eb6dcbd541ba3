"""What a batch is asked to do: a TOML file, a table (CSV) or a folder of pictures becomes a list of jobs.

A job is the settings of one run. Its keys are the flags of train_singleinsert.py and ``section.key`` for the rest;
preset < --config_file < [defaults] < the job < flags of the command line.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from singleinsert.batch.table import cell_value, read_table
from singleinsert.cli import FLAGS
from singleinsert.config import Settings, load_settings, preset_names, require
from singleinsert.config.load import check_name, nearest
from singleinsert.data.folders import PictureFolder, list_folder, masks_for, only_mask, same_name, some
from singleinsert.errors import LONGEST_VALUE, ConfigError, InputError, one_line, shown
from singleinsert.reading import expanded, read_toml
from singleinsert.training.files import LATEST

NOT_IN_JOBS = ("run.output_dir",)
OWN_KEYS = ("name", "preset", "config_file")
BEGINS_FROM = "run.resume_from_checkpoint"
"""Another run's checkpoint, from which a job begins; how far it has come itself, the batch knows."""
PATHS = ("data.image", "data.mask", BEGINS_FROM)
KINDS = "give a .toml or .csv file, or a folder of pictures"
REPORTS = ("index.html", "results.csv")
"""What a batch writes beside its concepts."""
HIDDEN = ".batch"
"""In a batch's folder: states of the jobs, and what is being worked on."""
QUEUE, PAUSED = "queue", "paused"
"""A folder of lists of jobs, which may grow, and the file in it that lets workers take no more of them."""

Values = dict[str, Any]
Problem = tuple[str, str]
"""(where a job was asked for, what is wrong with it)."""
Parse = Callable[[str, str], Any]
"""(key, text) -> value, where a list holds texts alone."""
Written = tuple[str, tuple[Values, ...], Parse | None]
"""Where a job stands, what is written there and in what lies under it, and how its texts become values."""


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
    from_folder = source.is_dir() and not (source / QUEUE).is_dir()
    for asked in _asked(source, problems):
        try:
            job = _job(asked, output_dir, preset, config_file, flags or {}, from_folder)
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


def _job(
    asked: Asked, output_dir: Path, preset: str, config_file: Path | None, flags: Values, from_folder: bool
) -> Job:
    """A job that is written names its preset itself; a folder's name only suggests one, but it does say the class."""
    chosen = preset or asked.preset if from_folder else asked.preset or preset
    values = asked.values | flags
    if from_folder and "data.class_word" in asked.values:
        values["data.class_word"] = asked.values["data.class_word"]
    file = Path(asked.config_file) if asked.config_file else config_file
    name = load_settings(chosen or None, file, values).name
    if name.lower() in REPORTS:
        raise ConfigError(f"name {name!r} is that of the batch's own page or table: set another name")
    values |= {"run.output_dir": str(output_dir / name), "run.output_name": name}
    settings = load_settings(chosen or None, file, values)
    require(settings, image="the picture to learn from", class_word="what it shows, such as face or cat")
    check_name(settings)
    return Job(name, settings, chosen, asked.where)


def _asked(source: Path, problems: list[Problem]) -> Iterator[Asked]:
    if not source.exists():
        raise InputError(f"{source}: not found; {KINDS}")
    if (source / QUEUE).is_dir():
        yield from _from_queue(source / QUEUE, problems)
        return
    if source.is_dir():
        rows, where = _from_folder(source, problems), ""
    elif source.suffix.lower() == ".csv":
        rows, where = _from_csv(source), f"{source} "
    elif source.suffix.lower() == ".toml":
        rows, where = _from_toml(source), f"{source} "
    else:
        raise InputError(f"{source}: no list of jobs; {KINDS}")
    for label, layers, parse in rows:
        try:
            yield _one(f"{where}{label}", layers, parse, source)
        except ConfigError as problem:
            problems.append((f"{where}{label}", str(problem)))


def _from_queue(folder: Path, problems: list[Problem]) -> Iterator[Asked]:
    """The jobs of every list in ``folder``, the oldest file's first. One that cannot be read is a problem."""
    lists = [path for path in folder.glob("*.*") if path.suffix.lower() in (".toml", ".csv") and path.name[0] != "."]
    for path in sorted(lists, key=_age):
        try:
            yield from _asked(path, problems)
        except (ConfigError, InputError) as problem:
            problems.append((QUEUE, str(problem)))


def _age(path: Path) -> tuple[int, str]:
    try:
        return path.stat().st_mtime_ns, path.name
    except OSError:  # taken away a moment ago
        return 0, path.name


def _one(where: str, layers: Iterable[Values], parse: Parse | None, source: Path) -> Asked:
    """``layers``: what was written, the later ones winning, however each writes a setting (seed, run.seed, [run])."""
    own: dict[str, str] = {}
    values: Values = {}
    for layer in layers:
        own |= {key: _text(key, layer[key]) for key in OWN_KEYS if key in layer}
        values |= dict(_keys({key: value for key, value in layer.items() if key not in OWN_KEYS}))
    if parse is not None:
        values = {key: parse(key, text) for key, text in values.items()}
    if "name" in own:
        values["run.output_name"] = own["name"]
    values |= {key: _paths(values[key], source) for key in PATHS if values.get(key)}
    file = _path(own["config_file"], source) if "config_file" in own else ""
    return Asked(where, own.get("preset", ""), file, values)


def flat_keys(job: Mapping[str, Any]) -> Values:
    """A job of a TOML list as ``{"section.key": value}``, its own keys (name, preset, config_file) beside them."""
    own = {key: value for key, value in job.items() if key in OWN_KEYS}
    return own | dict(_keys({key: value for key, value in job.items() if key not in OWN_KEYS}))


def _text(key: str, value: Any) -> str:
    """A name, preset or file; a name may be a number."""
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise ConfigError(f"{key} must be a text in quotes, not {shown(value)}")
    return str(value)


def _paths(given: Any, source: Path) -> Any:
    """Texts become paths; what is none is left for its own check to refuse."""
    if isinstance(given, list | tuple):
        return [_path(text, source) if isinstance(text, str) and text else text for text in given]
    return _path(given, source) if isinstance(given, str) and given else given


def _path(text: str, source: Path) -> str:
    """Paths in a list of jobs are seen from its folder; those of a folder are whole already."""
    return text if source.is_dir() else str(source.parent / expanded(text))


def _keys(row: Mapping[str, Any], section: str = "") -> Iterator[tuple[str, Any]]:
    """Flags and tables as ``section.key``; a key that no section has goes on, to be refused by name."""
    for key, value in row.items():
        if isinstance(value, dict):
            yield from _keys(value, f"{section}.{key}" if section else key)
            continue
        full = f"{section}.{key}" if section else FLAGS.get(key, key)
        if full in NOT_IN_JOBS or (full == BEGINS_FROM and value == LATEST):
            raise ConfigError(f"{key} is the batch's to decide: leave it out")
        if "." not in full:
            raise ConfigError(f"unknown key {one_line(key, LONGEST_VALUE)}{nearest(key, [*OWN_KEYS, *FLAGS])}")
        yield full, value


def _from_toml(source: Path) -> Iterator[Written]:
    content = read_toml(source, InputError)
    if unknown := set(content) - {"job", "defaults"}:
        first = sorted(unknown)[0]
        raise ConfigError(
            f"{source}: unknown part {one_line(first, LONGEST_VALUE)}{nearest(first, ['job', 'defaults'])}"
        )
    jobs, defaults = content.get("job", []), content.get("defaults", {})
    if not isinstance(jobs, list) or not isinstance(defaults, dict) or not all(isinstance(job, dict) for job in jobs):
        raise ConfigError(f"{source}: write [[job]], twice bracketed, and [defaults]")
    for number, job in enumerate(jobs, start=1):
        yield f"job {number}", (defaults, job), None


def _from_csv(source: Path) -> Iterator[Written]:
    for number, cells, decimal_comma in read_table(source):
        yield f"line {number}", (cells,), partial(cell_value, decimal_comma=decimal_comma)


def _from_folder(source: Path, problems: list[Problem]) -> Iterator[Written]:
    """``source/face/*.jpg`` are faces; pictures in ``source`` itself are of --class_word."""
    found: list[tuple[Path, str, Path | None]] = []
    for listing in _listings(source):
        kind, masks = "" if listing.folder == source else listing.folder.name, masks_for(listing.folder)
        for path in listing.pictures:
            try:
                found.append((path, kind, only_mask(path, masks)))
            except InputError as problem:
                problems.append((str(path), str(problem)))
    stems = Counter(same_name(path.stem) for path, *_ in found)
    for path, kind, mask in found:
        row: Values = {"image": str(path)} | ({"mask": str(mask)} if mask else {})
        if kind:
            row["class_word"] = kind.replace("_", " ")
            row |= {"preset": kind} if kind in preset_names() else {}
        if stems[same_name(path.stem)] > 1:  # face/1.jpg and cat/1.jpg; 1.jpg and 1.png are still refused
            row["name"] = f"{kind}_{path.stem}" if kind else path.stem
        yield str(path), (row,), None


def _listings(source: Path) -> list[PictureFolder]:
    """The folder's own pictures, then those of each folder in it, which is a class."""
    if (source / HIDDEN).is_dir():
        raise InputError(f"{source} holds what a batch wrote, not photos; {KINDS}")
    own = list_folder(source)
    return [own, *(list_folder(folder) for folder in own.folders)]


def left_out(source: Path) -> list[str]:
    """What is left out of a folder of pictures, and why, a line each; nothing for a list."""
    if not source.is_dir():
        return []
    lines = []
    for listing in _listings(source):
        lines += listing.lines()
        if listing.folder != source and listing.folders:
            names = some(f"{path.name}/" for path in listing.folders)
            lines.append(f"{listing.folder}: left out: {names}: folders in a class's folder are not looked into")
    return lines
