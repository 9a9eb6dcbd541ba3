"""Whether concepts' names can be trigger words: what the letters allow, what words mean, what lies in another."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from singleinsert.errors import InputError
from singleinsert.models.vocabulary import clip_tokens
from singleinsert.names import problem_with_trigger, safe_trigger


def common_word_note(name: str) -> str | None:
    """What to tell the user of a name that CLIP's vocabulary has as a word ("cat", "me"); None for any other.

    A1111 and Forge put the embedding wherever a prompt says that word, in whatever case; diffusers and kohya's scripts
    refuse to add a token that is there under exactly that name.
    """
    vocabulary = _vocabulary()
    if name not in vocabulary and f"{name.lower()}</w>" not in vocabulary:
        return None
    refused = ", and diffusers and kohya's scripts refuse it as a token" if name in vocabulary else ""
    return (
        f"{name!r} is a word of CLIP's vocabulary: prompts of WebUIs could no longer say it{refused}; "
        f"take a word of your own: --output_name {name}xy"
    )


def check_triggers(triggers: Sequence[str]) -> None:
    """Refuse names that no client could call the concepts of one artifact by.

    Raises:
        InputError: a name breaks in a client's prompt. Of several: one is a plain word, or lies in another, where A1111
            and Forge, which look for names inside longer words, would take it for the other.
    """
    for name in triggers:
        if problem := problem_with_trigger(name):
            better = safe_trigger(name)
            advice = f"give another --output_name, such as {better}" if better else "give another --output_name"
            raise InputError(f"{name!r:.80} cannot be a trigger word: {problem}; {advice}")
    if len(triggers) == 1:
        return  # a plain word is then a note: prompts of other programs do without it
    for name in triggers:
        if common_word_note(name):
            raise InputError(f"{name!r} is a word of CLIP's vocabulary, which prompts could no longer say: rename it")
        if other := next((o for o in triggers if o is not name and name.lower() in o.lower()), None):
            raise InputError(
                f"the name {name!r} is part of {other!r}, and A1111 and Forge would find it there: rename one, "
                "such as a1 and a10 to a01 and a10"
            )


@cache
def _vocabulary() -> frozenset[str]:
    """Read once: a run asks at its start and when it exports, a batch for every job."""
    return frozenset(clip_tokens())
