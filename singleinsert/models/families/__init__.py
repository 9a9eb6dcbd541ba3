"""The families of models that can be trained: every file of this folder holds one, a subclass of ``Family``.

docs/extending.md says how to add one.
"""

from __future__ import annotations

import importlib
from pathlib import Path

from singleinsert.models.family import Family, FileFacts


def _find_families() -> tuple[type[Family], ...]:
    """In the order of the files' names. A family's file imports nothing heavy before it loads a model."""
    found: list[type[Family]] = []
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.stem != "__init__":
            module = importlib.import_module(f"{__name__}.{path.stem}")
            found += [
                value for value in vars(module).values()
                if isinstance(value, type) and issubclass(value, Family) and value.__module__ == module.__name__
            ]  # fmt: skip
    return tuple(found)


FAMILIES = _find_families()
FILE_FACTS: dict[str, FileFacts] = {name: facts for family in FAMILIES for name, facts in family.files.items()}
"""By the names that artifacts have for what they were trained on."""
SUPPORTED = ", ".join(family.title for family in FAMILIES)
"""For messages: "Stable Diffusion 1.x and 2.x, Stable Diffusion XL"."""
