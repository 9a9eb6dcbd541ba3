"""Whether a concept's name can be a trigger word."""

from __future__ import annotations

from functools import cache


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


@cache
def _vocabulary() -> frozenset[str]:
    """Read once: a run asks at its start and when it exports, a batch for every job."""
    from singleinsert.models.vocabulary import clip_tokenizer

    return frozenset(clip_tokenizer("sd1").get_vocab())
