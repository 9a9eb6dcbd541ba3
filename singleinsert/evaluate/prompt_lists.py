"""Prompts that ask to keep a concept and to change something, with what each asks for; as TOML.

    title = "..."
    classes = ["face", "man"]          # class words that the list is for; left out: any

    [[prompt]]
    text = "{concept} with teal hair, in front of a pink wall"
    classes = ["face"]                 # where a list holds prompts of several classes
    target = [
        { question = "Does the person have teal hair?", label = { hair_color = "teal" } },
        { question = "Is there a pink wall behind the person?" },
    ]

Labels are for judges that read attributes, and may be left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from singleinsert.config.load import nearest
from singleinsert.data.prompts import fill
from singleinsert.errors import ConfigError
from singleinsert.evaluate.lists import check_keys, names_in, read_list
from singleinsert.metrics.targets import Target

FOLDER = Path(__file__).resolve().parent / "prompts"
AUTO = "auto"
"""In place of a list's name: the one of the concept's class."""
BESIDE, BESIDE_SUFFIX = "beside", ".prompts.toml"
"""In place of a list's name: each concept's own, photo.prompts.toml beside photo.jpg."""
ANY_OBJECT = "object"


@dataclass(frozen=True)
class EditPrompt:
    """A prompt, ``{concept}`` (or ``*``) in the concept's place, and what it asks for.

    Attributes:
        handles: of a scene's prompt, the concepts that it names, each as ``{handle}`` in the text (scene_prompts.py).
    """

    text: str
    targets: tuple[Target, ...]
    classes: tuple[str, ...] = ()
    handles: tuple[str, ...] = ()

    def without_concept(self, class_word: str) -> str:
        """The class word in the concept's place, as CLIP-T asks for it."""
        return fill(self.text, "", class_word)


@dataclass(frozen=True)
class PromptList:
    """Prompts of one origin. ``classes``: () for any."""

    name: str
    title: str
    classes: tuple[str, ...]
    prompts: tuple[EditPrompt, ...]

    def for_class(self, word: str) -> tuple[EditPrompt, ...]:
        """The prompts that make sense for a class word.

        Raises:
            ConfigError: there are none.
        """
        found = tuple(p for p in self.prompts if not p.classes or word in p.classes)
        if not found:
            known = sorted({word for prompt in self.prompts for word in prompt.classes})
            raise ConfigError(f"prompt list {self.name} has no prompts for {word!r}{nearest(word, known)}")
        return found


def list_names() -> list[str]:
    """The lists that come with the package."""
    return names_in(FOLDER)


def prompts_for(source: str, class_word: str, picture: Path | None = None) -> tuple[EditPrompt, ...]:
    """The prompts of a class word from a list's name, a file, ``beside``, the file beside the concept's picture, or
    ``auto``: the list of that class, else of objects."""
    if source == BESIDE and picture is not None:
        source = str(picture.with_suffix(BESIDE_SUFFIX))
    if source != AUTO:
        return load_prompts(source).for_class(class_word)
    lists = [load_prompts(name) for name in list_names()]
    fitting = [found for found in lists if class_word in found.classes]
    return (fitting[0] if fitting else load_prompts(ANY_OBJECT)).for_class(class_word)


def load_prompts(source: str | Path) -> PromptList:
    """A list by its name or file.

    Raises:
        ConfigError: no such list, an unknown key, a prompt without a concept or a target; one line.
    """
    path, table = read_list(source, FOLDER, "prompt list", "prompt", ("classes",), also=[AUTO, BESIDE])
    classes = _words(table.get("classes", []), f"{path}: classes")
    prompts = tuple(_prompt(row, f"{path} prompt {i}") for i, row in enumerate(table["prompt"], start=1))
    return PromptList(path.stem, str(table["title"]), classes, prompts)


def _prompt(row: Any, where: str) -> EditPrompt:
    check_keys(row, ("text", "classes", "target"), ("text", "target"), where)
    text, targets = row["text"], row["target"]
    if not isinstance(text, str) or fill(text, "\0", "x").count("\0") != 1:
        raise ConfigError(f"{where}: text must hold {{concept}} once, not {text!r}")
    if not isinstance(targets, list) or not 1 <= len(targets) <= 2:
        raise ConfigError(f"{where}: one or two [[prompt.target]] are wanted")
    return EditPrompt(text, tuple(_target(t, where) for t in targets), _words(row.get("classes", []), where))


def _target(row: Any, where: str) -> Target:
    check_keys(row, ("question", "label"), ("question",), f"{where} target")
    label = row.get("label", {})
    texts = [row["question"], *label, *label.values()] if isinstance(label, dict) else [None]
    if not all(isinstance(text, str) and text for text in texts):
        raise ConfigError(f"{where}: a target is a question in quotes and a label of texts, not {row!r}")
    return Target(row["question"], label)


def _words(value: Any, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(word, str) and word for word in value):
        raise ConfigError(f"{where}: a list of words in quotes is wanted, not {value!r}")
    return tuple(value)
