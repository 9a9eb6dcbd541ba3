"""CLIP's vocabulary, offline: its merges come with the package."""

from __future__ import annotations

import gzip
from functools import cache
from typing import Any

from singleinsert.models.bundled import ASSETS


@cache
def clip_merges() -> tuple[tuple[str, ...], ...]:
    """The pairs that byte-pair encoding joins, in its order."""
    text = gzip.decompress((ASSETS / "clip" / "merges.txt.gz").read_bytes()).decode("utf-8")
    return tuple(tuple(line.split(" ")) for line in text.split("\n"))


def clip_tokens() -> list[str]:
    """CLIP's 49,408 tokens, in the order of their numbers. A name is judged by them before transformers is imported."""
    letters = byte_letters()
    words = [letter + "</w>" for letter in letters]
    return [*letters, *words, *map("".join, clip_merges()), "<|startoftext|>", "<|endoftext|>"]


def byte_letters() -> list[str]:
    """The 256 letters that stand for bytes, as GPT-2 orders them: those that can be printed stand for themselves, and
    come first."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    return [*map(chr, printable), *(chr(256 + place) for place in range(256 - len(printable)))]


def clip_tokenizer(name: str) -> Any:
    """CLIP's tokenizer from the bundled merges. OpenCLIP's text encoders ("sd2", SDXL's second) were trained on texts
    padded with "!", CLIP's own ("sd1", SDXL's first) on texts padded with the end token."""
    from transformers import CLIPTokenizer

    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(clip_tokens())}, merges=list(clip_merges()),
        model_max_length=77, pad_token="!" if name == "sd2" else "<|endoftext|>",
    )  # fmt: skip
