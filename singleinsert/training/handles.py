"""What a run's concepts are called, and what its samples' prompts call them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from singleinsert.captions.words import STYLES
from singleinsert.config import Settings
from singleinsert.data.prompts import fill, says_class_word
from singleinsert.data.subject import BACKGROUND, BACKGROUND_HANDLE, Handle, name_handles
from singleinsert.errors import ConfigError, InputError
from singleinsert.models.trigger import check_triggers
from singleinsert.names import problem_with_name

MOST = 8
"""Concepts of one run."""


def find_handles(settings: Settings) -> tuple[Handle, ...]:
    """The run's concepts, named; the background is the last, where it is learnt too.

    Raises:
        ConfigError: names, class words and sample prompts do not go together. InputError: no client could call the
            concepts by their names, or a sample prompt names one that the run does not have.
    """
    data = settings.data
    if data.handles and len(data.handles) != len(data.class_word):
        raise ConfigError(
            f"data.handles names {len(data.handles)} concepts, data.class_word has {len(data.class_word)}"
        )
    if unseen := [word for word in data.class_word if not word.isprintable() or not word.strip()]:
        raise ConfigError(f"data.class_word {unseen[0]!r:.80} is empty or holds characters that cannot be seen")
    handles = name_handles(data.class_word, data.handles, data.placeholder_token)
    everything = (*handles, BACKGROUND_HANDLE) if data.learn_background else handles
    if len(everything) > 1:
        everything = tuple(
            replace(h, alone=not says_class_word(settings.scene.phrase, h.class_word)) for h in everything
        )
    if any(handle.name.lower() == BACKGROUND for handle in handles):
        raise ConfigError(
            f"a concept called {BACKGROUND} is what --learn_background learns: give yours another name with "
            "--set data.handles, or leave it out and say --learn_background"
        )
    if not data.can_be_described:
        _refuse_descriptions(settings)
    names = [handle.name for handle in everything]
    for name in names if len(names) > 1 else ():
        if problem := problem_with_name(name):
            raise ConfigError(
                f"{name!r:.80} cannot be a concept's name: {problem}; give another with --set data.handles"
            )
    small = [name.lower() for name in names]
    if double := next((name for name in small if small.count(name) > 1), None):
        raise ConfigError(f"two concepts are called {double}: give each its own name with data.handles")
    masked = any(stage.objective != "full_image" for stage in settings.stages.values())
    if (styles := STYLES.intersection(data.class_word)) and (masked or len(handles) > 1):
        raise ConfigError(
            f"class word {min(styles)}: a style has no mask, so that it is learnt alone and with objective "
            "full_image (--config_file presets/full_image.toml)"
        )
    if len(everything) > MOST:
        raise ConfigError(f"{len(everything)} concepts of one picture: at most {MOST} can be told apart")
    sample_prompts(settings.sample.prompts, everything)
    if len(names) > 1:
        check_triggers([settings.name + name for name in names])
    return everything


def _refuse_descriptions(settings: Settings) -> None:
    """ConfigError where a description was asked for by a setting: prompts of several concepts have no place for one."""
    caption = settings.caption
    asked = {
        "data.description": settings.data.description, "caption.describe (--describe, --scene_words)": caption.describe,
        f"caption.mode {caption.mode}": caption.mode not in ("auto", "off"),
    }  # fmt: skip
    for name, value in asked.items():
        if value:
            raise ConfigError(
                f"{name}: only a single concept can have a description. Several are kept apart by their masks, and "
                "--learn_background learns the rest: leave it out"
            )


def sample_prompts(templates: Sequence[str], handles: Sequence[Handle]) -> list[str]:
    """The prompts of a run's samples. Of several concepts ``{name}`` is one of them, and ``{concept}`` stands for each
    alone, for every pair, and for all together; beside other words ("{concept} in the snow") for all but the learnt
    background, which would contradict a place.

    Raises:
        InputError: a name in {} or <> that is no concept of the run.
    """
    if len(handles) == 1:
        return [fill(prompt, handles[0].placeholder, handles[0].class_word) for prompt in templates]
    phrases = {handle.name: handle.words for handle in handles}
    names = list(phrases)
    groups = [[name] for name in names] + [[a, b] for i, a in enumerate(names) for b in names[i + 1 :]]
    groups += [names] if len(names) > 2 else []
    prompts: list[str] = []
    for template in templates:
        template, named = _with_names(template, handles)
        if named or "{concept}" not in template:
            prompts.append(template.replace("{concept}", " and ".join(phrases.values())))
        elif template.strip() == "{concept}":
            prompts += ["a photo of " + " and ".join(phrases[name] for name in group) for group in groups]
        else:
            subjects = [words for name, words in phrases.items() if name != BACKGROUND]
            prompts.append(template.replace("{concept}", " and ".join(subjects)))
    return prompts


def _with_names(template: str, handles: Sequence[Handle]) -> tuple[str, bool]:
    """A prompt with its words for each ``{name}``, and whether it names any, ``<name>`` too."""
    known = {handle.name.lower(): handle for handle in handles}

    def by_name(found: re.Match[str]) -> str:
        handle = known.get(found[0][1:-1].lower())
        if handle is None and found[0] != "{concept}":
            raise InputError(
                f"{found[0]} in the prompt {template!r} names no concept of this run: there are {', '.join(known)}, "
                "and {concept}"
            )
        if handle is None:
            return found[0]
        return handle.placeholder if found[0][0] == "<" else handle.words

    written = re.sub(r"\{[^{}]*\}|<[A-Za-z][^<>]*>", by_name, template)
    return written, any(handle.placeholder in written for handle in handles)
