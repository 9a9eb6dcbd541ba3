"""Templates of prompts in settings: what stands in their braces, and that the concept is among it."""

from __future__ import annotations

import re

from singleinsert.config.fields import Settings
from singleinsert.config.nearest import nearest
from singleinsert.errors import ConfigError
from singleinsert.names import FILLED_IN
from singleinsert.placeholders import names_the_concept


def check_templates(settings: Settings) -> None:
    """ConfigError where a template that training draws from could teach nothing."""
    data = settings.data
    for name, stage in settings.stages.items():
        _check(f"{name}.prompt_places", stage.prompt_places, data.placeholder_token)
        _check(f"{name}.prompt_edits", stage.prompt_edits, data.placeholder_token)


def _check(key: str, texts: tuple[str, ...], placeholder: str) -> None:
    for text in texts:
        check_braces(key, text)
        if not names_the_concept(text, placeholder):
            raise ConfigError(f"{key} {text!r} does not hold {{concept}}: nothing could be learnt with it")


def check_braces(key: str, text: str) -> None:
    for name in re.findall(r"\{([^{}]*)\}", text):
        if name not in FILLED_IN:
            raise ConfigError(f"{key} {text!r} holds {{{name}}}, which stands for nothing{nearest(name, FILLED_IN)}")
