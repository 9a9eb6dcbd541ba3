"""The house's directions, read from its imports: down or within, never up or across."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import singleinsert

ROOT = Path(singleinsert.__file__).parent

FLOORS = (
    ("errors", "heap", "imports", "terms", "streams", "placeholders"),
    ("specs", "reading"),
    ("names",),
    ("atomic", "dtypes"),
    ("claims", "loopback"),
    ("tensorfile",),
    ("config",),
    ("cli",),
    ("data",),
    ("drawing",),
    ("masks",),
    ("losses",),
    ("models",),
    ("captions",),
    ("concepts", "adapters"),
    ("artifact",),
    ("interchange",),
    ("locate",),
    ("training",),
    ("export", "inference", "metrics", "work"),
    ("insert", "edit", "check", "merge"),
    ("hosts", "batch"),
    ("hooks", "evaluate"),
    ("ui",),
    ("__main__",),
)
"""Parts of the package from the ground up. A part imports from lower lines and from itself."""

PLAIN = (
    "errors", "terms", "names", "reading", "atomic", "dtypes", "tensorfile", "data", "drawing", "losses", "models",
    "concepts", "adapters", "artifact", "interchange", "locate", "metrics", "hosts",
)  # fmt: skip
"""Parts that take plain arguments, so that they can be used and tested alone: no settings, no command line."""

OPTIONAL = (
    "bitsandbytes", "cv2", "deepspeed", "gradio", "groundingdino", "peft", "ray", "segment_anything", "submitit",
    "tensorboard", "scipy", "torchvision", "wandb", "xformers",
)  # fmt: skip
"""Imported inside the function that needs them: not everyone has them, and they are slow. (peft: see below.)"""

MODULES = sorted(path for path in ROOT.rglob("*.py") if "assets" not in path.parts)


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path, nodes: Iterator[ast.AST]) -> Iterator[str]:
    """Full names of the modules that these nodes import."""
    package = path.relative_to(ROOT.parent).parent.parts
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            yield module
            if module == "singleinsert":  # `from singleinsert import training` is an import of the part
                yield from (f"singleinsert.{alias.name}" for alias in node.names)


def parts_imported(path: Path) -> set[str]:
    names = imported(path, ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    found = {name.split(".")[1] for name in names if name.startswith("singleinsert.")}
    return found - {"__version__"}


def part_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def floor_of(part: str) -> int:
    found = [floor for floor, parts in enumerate(FLOORS) if part in parts]
    assert found, f"singleinsert/{part} has no floor: add it to FLOORS"
    return found[0]


def wrong_imports(path: Path) -> set[str]:
    """Parts that the module must not import."""
    part, others = part_of(path), parts_imported(path)
    if part == "__init__":
        return others  # nothing at all, so that --help stays quick
    unplain = {"config", "cli"} if part in PLAIN else set()
    return {other for other in others - {part} if floor_of(other) >= floor_of(part) or other in unplain}


def test_imports_go_down():
    wrong = {name_of(path): found for path in MODULES if (found := wrong_imports(path))}
    assert not wrong, "module -> what it must not import"


def test_optional_packages_are_imported_where_they_are_needed():
    wrong = {}
    for path in MODULES:
        body = ast.parse(path.read_text(encoding="utf-8")).body
        found = {name.split(".")[0] for name in imported(path, iter(body))} & set(OPTIONAL)
        # peft is always installed, and adapters/ is the one folder that is about it
        if found - ({"peft"} if part_of(path) == "adapters" else set()):
            wrong[name_of(path)] = found
    assert not wrong


def test_the_package_does_not_need_the_testbed():
    foreign = {"testbed", "tests", "benchmarks", "integrations"}
    for path in MODULES:
        names = imported(path, ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
        assert not {name.split(".")[0] for name in names} & foreign, name_of(path)


def test_the_rule_finds_an_import_from_above(tmp_path, monkeypatch):
    """The reader of imports sees every way of writing one."""
    package = tmp_path / "singleinsert"
    (package / "losses").mkdir(parents=True)
    module = package / "losses" / "new.py"
    module.write_text(
        "import singleinsert.training.loop\nfrom singleinsert import config\n"
        "def f():\n    from ..export import webui\n    from .other import thing\n"
    )
    monkeypatch.setitem(globals(), "ROOT", package)
    assert parts_imported(module) == {"training", "config", "export", "losses"}


def test_every_module_can_be_imported():
    """On a machine without any optional package; names that do not exist show here."""
    names = [name_of(path) for path in MODULES]
    assert "singleinsert.config.fields" in names
    for name in names:
        importlib.import_module(name)


def test_every_folder_is_a_package():
    """Or it would be missing from what is installed."""
    assert {path.parent for path in MODULES} == {path.parent for path in MODULES if path.name == "__init__.py"}
