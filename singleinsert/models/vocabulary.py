"""CLIP's vocabulary, offline: its merges come with the package."""

from __future__ import annotations

import gzip
from typing import Any

from singleinsert.models.bundled import ASSETS


def clip_tokenizer(name: str) -> Any:
    """CLIP's tokenizer from the bundled merges. OpenCLIP's text encoders ("sd2", SDXL's second) were trained on texts
    padded with "!", CLIP's own ("sd1", SDXL's first) on texts padded with the end token."""
    from transformers import CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    text = gzip.decompress((ASSETS / "clip" / "merges.txt.gz").read_bytes()).decode("utf-8")
    merges = [tuple(line.split(" ")) for line in text.split("\n")]
    letters = list(bytes_to_unicode().values())
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)}, merges=merges, model_max_length=77,
        pad_token="!" if name == "sd2" else "<|endoftext|>",
    )  # fmt: skip
