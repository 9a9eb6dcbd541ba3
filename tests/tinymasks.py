"""Small random GroundingDINO and SAM models in the true classes' folders, for the true code path."""

from __future__ import annotations

from pathlib import Path

import torch

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] . face hair cat cup a the ##s".split()


def write_tiny_grounding_dino(folder: Path) -> Path:
    """GroundingDINO with a two-stage Swin backbone and BERT text side, random weights."""
    from transformers import (
        BertConfig,
        BertTokenizer,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoProcessor,
        SwinConfig,
    )
    from transformers.models.grounding_dino.image_processing_pil_grounding_dino import GroundingDinoImageProcessorPil

    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    swin = SwinConfig(
        image_size=64, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=2, out_features=["stage1", "stage2"]
    )
    text = BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=64,
    )  # fmt: skip
    config = GroundingDinoConfig(
        backbone_config=swin, text_config=text, d_model=32, encoder_layers=1, encoder_ffn_dim=32,
        encoder_attention_heads=2, decoder_layers=2, decoder_ffn_dim=32, decoder_attention_heads=2, num_queries=6,
        num_feature_levels=2, encoder_n_points=2, decoder_n_points=2, max_text_len=16,
    )  # fmt: skip
    GroundingDinoForObjectDetection(config).save_pretrained(folder)
    images = GroundingDinoImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 96})
    GroundingDinoProcessor(images, BertTokenizer(str(vocabulary))).save_pretrained(folder)
    return folder


def write_tiny_sam(folder: Path) -> Path:
    """SAM with a two-layer vision encoder, random weights."""
    from transformers import (
        SamConfig,
        SamMaskDecoderConfig,
        SamModel,
        SamProcessor,
        SamPromptEncoderConfig,
        SamVisionConfig,
    )
    from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

    torch.manual_seed(0)
    vision = SamVisionConfig(
        hidden_size=16, output_channels=16, num_hidden_layers=2, num_attention_heads=2, image_size=64, patch_size=8,
        global_attn_indexes=[1], window_size=4, mlp_dim=16, num_pos_feats=8,
    )  # fmt: skip
    prompt = SamPromptEncoderConfig(hidden_size=16, image_size=64, patch_size=8, mask_input_channels=4)
    decoder = SamMaskDecoderConfig(
        hidden_size=16, mlp_dim=16, num_hidden_layers=1, num_attention_heads=2, attention_downsample_rate=2,
        iou_head_hidden_dim=16,
    )  # fmt: skip
    SamModel(
        SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)
    ).save_pretrained(folder)
    images = SamImageProcessorPil(
        size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}, mask_size={"longest_edge": 16},
        mask_pad_size={"height": 16, "width": 16},
    )  # fmt: skip
    SamProcessor(images).save_pretrained(folder)
    return folder
