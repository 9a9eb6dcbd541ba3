"""Tiny random encoders and a vision-language model of the true classes, in folders, for the true loading code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tinymodels import tiny_tokenizer


def write_preprocessor(folder: Path, **changes: Any) -> None:
    """CLIP's published preparation, at 32 pixels."""
    how = {
        "do_resize": True, "size": {"shortest_edge": 32}, "resample": 3, "do_center_crop": True,
        "crop_size": {"height": 32, "width": 32}, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
        "do_convert_rgb": True, "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711], "image_processor_type": "CLIPImageProcessor",
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(how | changes))


def write_tiny_clip(folder: Path) -> Path:
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    text = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
            "vocab_size": len(tokenizer), "max_position_embeddings": 16, "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id}  # fmt: skip
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
              "image_size": 32, "patch_size": 8}  # fmt: skip
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_preprocessor(folder)
    return folder


def write_tiny_vit(folder: Path, kind: str) -> Path:
    """ "vit", "dinov2" or "dinov2_with_registers"."""
    import transformers

    torch.manual_seed(1)
    names = {"vit": "ViT", "dinov2": "Dinov2", "dinov2_with_registers": "Dinov2WithRegisters"}
    config = getattr(transformers, f"{names[kind]}Config")(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, mlp_ratio=1, image_size=32,
        patch_size=8,
    )  # fmt: skip
    getattr(transformers, f"{names[kind]}Model")(config).save_pretrained(folder)
    write_preprocessor(folder, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    return folder


def write_tiny_vlm(folder: Path) -> Path:
    """LLaVA: a CLIP picture encoder in front of a Llama, with a chat template; a word a token."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    torch.manual_seed(2)
    words = "<unk> <s> </s> <image> USER: ASSISTANT: yes no Yes No Is the there a hat red ? Answer with or only ."
    inner = Tokenizer(models.WordLevel({word: k for k, word in enumerate(words.split())}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>",
        additional_special_tokens=["<image>"],
    )  # fmt: skip
    vision = CLIPVisionConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
                              image_size=32, patch_size=8, projection_dim=8)  # fmt: skip
    text = LlamaConfig(vocab_size=len(words.split()), hidden_size=16, intermediate_size=16, num_hidden_layers=2,
                       num_attention_heads=2, num_key_value_heads=2, bos_token_id=1, eos_token_id=2)  # fmt: skip
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=3, vision_feature_layer=-1)
    model = LlavaForConditionalGeneration(config)
    model.save_pretrained(folder)
    template = (
        "<s> USER: {% for part in messages[0]['content'] %}{% if part['type'] == 'image' %}<image> "
        "{% else %}{{ part['text'] }} {% endif %}{% endfor %}ASSISTANT:"
    )
    LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}), tokenizer,
        patch_size=8, vision_feature_select_strategy="default", chat_template=template, num_additional_image_tokens=1,
    ).save_pretrained(folder)  # fmt: skip
    return folder
