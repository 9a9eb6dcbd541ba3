"""A tiny Qwen3 of the true classes: a byte-level tokenizer with its chat template, and the language model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tinymodels import WORDS, hashed

LIBRARIES = {
    "scheduler": "diffusers", "vae": "diffusers", "transformer": "diffusers", "text_encoder": "transformers",
    "tokenizer": "transformers",
}  # fmt: skip
"""Of the parts of a pipeline with such a language model: where model_index.json says that their classes are."""
WIDTH = 128
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% if enable_thinking is defined and not enable_thinking %}"
    "<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def tiny_qwen_tokenizer() -> Any:
    """A Qwen2Tokenizer: any text, byte by byte; of ``WORDS``, and of those after a space, one token each or a few."""
    from tokenizers import pre_tokenizers
    from transformers import Qwen2Tokenizer

    words = [word for word in dict.fromkeys([*WORDS, "user", "assistant"]) if len(word) > 1]
    merges: list[tuple[str, str]] = []
    for word in (*words, *("\u0120" + word for word in words)):  # a space is written so
        for end in range(1, len(word)):
            merges.append((word[:end], word[end]))
    merges = list(dict.fromkeys(merges))
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *dict.fromkeys("".join(pair) for pair in merges)]
    vocabulary = {token: i for i, token in enumerate((*tokens, SPECIAL[0]))}
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=merges, model_max_length=4096)
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL[1:])})
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def tiny_qwen(tokenizer: Any, layers: int) -> Any:
    """A Qwen3ForCausalLM of that many layers, before its weights are set."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=192, num_hidden_layers=layers,
            num_attention_heads=4, num_key_value_heads=2, head_dim=32, max_position_embeddings=1024,
            tie_word_embeddings=True, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip


def set_lookup(encoder: Any) -> None:
    """Rows of the embedding table that are as large as those of a true one beside the layers' outputs."""
    table = encoder.model.embed_tokens.weight
    table.copy_(0.5 * hashed(tuple(table.shape), 3))


def write_pipeline(folder: Path, models: Mapping[str, Any], **facts: Any) -> Path:
    """Write ``models`` as a whole diffusers folder (float32 safetensors), with ``facts`` in its index; the folder."""
    for name, model in models.items():
        model.save_pretrained(folder / name)
    index = {name: [LIBRARIES[name], type(models[name]).__name__] for name in LIBRARIES}
    (folder / "model_index.json").write_text(json.dumps(index | facts, indent=2))
    return folder
