"""Tiny vision-language models of the true classes, in folders, that say one sentence each.

They are random but for their words: the weights that mix positions are made small and the last layer is set so that
each token is followed by the next one of the sentence. So the true loading, preparation and decoding code runs, and
what it must give is known. A token may be several words: what counts is that no two of a sentence are equal.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

LETTERS = "A B C D E F".split()
SENTENCE = ("a photo of a young", "face wearing a red hat", "on a beach.")
WORDS = "<unk> <s> </s>".split(), "USER: ASSISTANT: yes no Yes No".split()
TEMPLATE = (
    "<s> USER: {% for part in messages[0]['content'] %}{% if part['type'] == 'image' %}PICTURE "
    "{% else %}{{ part['text'] }} {% endif %}{% endfor %}ASSISTANT:"
)
WIDTH = 64


def _tokenizer(special: Sequence[str], sentence: Sequence[str]) -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [*WORDS[0], *special, *WORDS[1], *LETTERS, *sentence]
    inner = Tokenizer(models.WordLevel({word: k for k, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>",
        additional_special_tokens=list(special),
    )  # fmt: skip


def _text_config(tokenizer: Any) -> dict[str, Any]:
    return {"vocab_size": len(tokenizer), "hidden_size": WIDTH, "intermediate_size": 16, "num_hidden_layers": 2,
            "num_attention_heads": 2, "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
            "tie_word_embeddings": False}  # fmt: skip


@torch.no_grad()
def _teach(model: Any, tokenizer: Any, sentence: Sequence[str], critic: str) -> None:
    """After "ASSISTANT:" the sentence, then the end; of the letters, ``critic`` is the likeliest first word."""
    for name, parameter in model.named_parameters():
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            parameter.mul_(1e-3)
    embeddings = model.get_input_embeddings().weight
    embeddings.copy_(torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(3)))
    head = model.get_output_embeddings().weight
    head.copy_(0.01 * torch.randn(head.shape, generator=torch.Generator().manual_seed(4)))
    chain = tokenizer.convert_tokens_to_ids(["ASSISTANT:", *sentence, "</s>"])
    for before, after in pairwise(chain):
        head[after] += embeddings[before]
    # half as likely as the sentence, so that it wins among the letters only
    head[tokenizer.convert_tokens_to_ids(critic)] += 0.5 * embeddings[chain[0]]
    model.generation_config.eos_token_id = model.generation_config.pad_token_id = 2


def write_smolvlm(folder: Path, sentence: Sequence[str] = SENTENCE, critic: str = "B") -> Path:
    """Idefics3, as SmolVLM is: pictures in tiles."""
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    torch.manual_seed(0)
    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    special = ["<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *tiles]
    tokenizer = _tokenizer(special, sentence)
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
              "image_size": 32, "patch_size": 8}  # fmt: skip
    model = Idefics3ForConditionalGeneration(
        Idefics3Config(
            text_config=_text_config(tokenizer) | {"model_type": "llama"}, vision_config=vision, scale_factor=2,
            image_token_id=tokenizer.convert_tokens_to_ids("<image>"), pad_token_id=2, tie_word_embeddings=False,
        )
    )  # fmt: skip
    _teach(model, tokenizer, sentence, critic)
    model.save_pretrained(folder)
    processor = Idefics3ImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    Idefics3Processor(
        processor, tokenizer, image_seq_len=4, chat_template=TEMPLATE.replace("PICTURE", "<image>")
    ).save_pretrained(folder)
    return folder


def write_llava(folder: Path, sentence: Sequence[str] = SENTENCE, critic: str = "B", template: str = TEMPLATE) -> Path:
    """LLaVA, as JoyCaption is."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    torch.manual_seed(1)
    tokenizer = _tokenizer(["<image>"], sentence)
    vision = CLIPVisionConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
                              image_size=32, patch_size=8, projection_dim=8)  # fmt: skip
    model = LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=LlamaConfig(**_text_config(tokenizer)), image_token_index=3,
                    vision_feature_layer=-1, tie_word_embeddings=False)
    )  # fmt: skip
    _teach(model, tokenizer, sentence, critic)
    model.save_pretrained(folder)
    LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}), tokenizer,
        patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=template.replace("PICTURE", "<image>"),
    ).save_pretrained(folder)  # fmt: skip
    return folder


def write_qwen_vl(folder: Path, sentence: Sequence[str] = SENTENCE, critic: str = "B") -> Path:
    """Qwen2.5-VL, whose processor also takes video and so wants torchvision; the files as on the hub."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    torch.manual_seed(2)
    special = ["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"]
    tokenizer = _tokenizer(special, sentence)
    rope = {"rope_type": "default", "mrope_section": [4, 6, 6], "rope_theta": 10000.0}
    vision = {"hidden_size": 16, "intermediate_size": 16, "depth": 2, "num_heads": 2, "patch_size": 8,
              "out_hidden_size": WIDTH, "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 32,
              "fullatt_block_indexes": [1]}  # fmt: skip
    model = Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config=_text_config(tokenizer) | {"rope_parameters": rope}, vision_config=vision, image_token_id=3,
            video_token_id=4, vision_start_token_id=5, vision_end_token_id=6, tie_word_embeddings=False,
        )
    )  # fmt: skip
    _teach(model, tokenizer, sentence, critic)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor = Qwen2VLImageProcessorPil(patch_size=8, merge_size=2, temporal_patch_size=2, min_pixels=32 * 32,
                                         max_pixels=64 * 64)  # fmt: skip
    processor.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text(
        TEMPLATE.replace("PICTURE", "<|vision_start|> <|image_pad|> <|vision_end|>")
    )
    config = folder / "preprocessor_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"processor_class": "Qwen2_5_VLProcessor"}))
    return folder


def write_blip(folder: Path) -> Path:
    """BLIP: captions without being asked, and cannot be."""
    from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipProcessor
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    torch.manual_seed(5)
    words = "[PAD] [UNK] [CLS] [SEP] [MASK] [DEC] a woman in red hat on the beach".split()
    tokenizer = BertTokenizer(vocab={word: k for k, word in enumerate(words)})
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = small | {"vocab_size": len(words), "projection_dim": 8, "encoder_hidden_size": 16, "bos_token_id": 5,
                    "sep_token_id": 3, "pad_token_id": 0, "eos_token_id": 3, "max_position_embeddings": 99}  # fmt: skip
    vision = small | {"image_size": 32, "patch_size": 8}
    config = BlipConfig(text_config=text, vision_config=vision, projection_dim=8)
    BlipForConditionalGeneration(config).save_pretrained(folder)
    BlipProcessor(BlipImageProcessorPil(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder


def write_florence(folder: Path) -> Path:
    """Florence-2: an encoder-decoder that takes task words and puts the picture's five tokens in by itself."""
    from transformers import (
        BartConfig,
        Florence2Config,
        Florence2ForConditionalGeneration,
        Florence2Processor,
        PreTrainedTokenizerFast,
    )
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.florence2.configuration_florence2 import Florence2VisionConfig

    torch.manual_seed(6)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_tokenizer(["<image>"], SENTENCE).backend_tokenizer, unk_token="<unk>", bos_token="<s>",
        eos_token="</s>", pad_token="</s>", extra_special_tokens={"image_token": "<image>"},
    )  # fmt: skip
    vision = Florence2VisionConfig(embed_dim=(16,) * 4, num_heads=(2,) * 4, num_groups=(2,) * 4, depths=(1,) * 4,
                                   projection_dim=16, window_size=4)  # fmt: skip
    text = BartConfig(
        vocab_size=len(tokenizer), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, bos_token_id=1, eos_token_id=2,
        pad_token_id=2, decoder_start_token_id=1, forced_eos_token_id=None, max_position_embeddings=512,
    )  # fmt: skip
    config = Florence2Config(vision_config=vision, text_config=text, image_token_id=3)
    Florence2ForConditionalGeneration(config).save_pretrained(folder)
    processor = CLIPImageProcessorPil(size={"height": 64, "width": 64}, do_center_crop=False)
    processor.image_seq_length = 5
    Florence2Processor(processor, tokenizer).save_pretrained(folder)
    return folder
