"""diffusers' UNet without the operators that change nothing: the same numbers to the last bit, from fewer launches.

Its blocks divide by factors that are 1, and each of them activates the embedding of the timestep anew.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn
from torch.nn import functional


class _LeanResnetBlock(ResnetBlock2D):
    """A block that neither resizes nor scales, told the timestep by an embedding that is activated already."""

    def forward(self, input_tensor: Tensor, temb: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        hidden = self.conv1(self.nonlinearity(self.norm1(input_tensor)))
        hidden = hidden + self.time_emb_proj(temb)[:, :, None, None]
        hidden = self.conv2(self.nonlinearity(self.norm2(hidden)))
        return (input_tensor if self.conv_shortcut is None else self.conv_shortcut(input_tensor)) + hidden


class _LeanAttention(Attention):
    """Attention that hands on what it is given, without reading its processor's signature in each call."""

    def forward(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None, **options: Any,
    ) -> Tensor:  # fmt: skip
        return self.processor(
            self, hidden_states, encoder_hidden_states=encoder_hidden_states, attention_mask=attention_mask, **options
        )


class _LeanProcessor(AttnProcessor2_0):
    """Attention without masks, norms and scales of its own.

    Where gradients go through it on a CPU it is computed in float32: PyTorch's kernel for bfloat16 takes five times as
    long backward.
    """

    def __init__(self, of_a_cpu: bool) -> None:
        """``of_a_cpu``: were the weights loaded there? Some then go to a GPU, where nothing is different."""
        super().__init__()
        self._of_a_cpu = of_a_cpu

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None, temb: Tensor | None = None, *args: Any, **kwargs: Any,
    ) -> Tensor:  # fmt: skip
        if attention_mask is not None or hidden_states.ndim != 3:
            return super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, temb, *args, **kwargs)
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        projected = (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))  # each (b, n, heads * d)
        query, key, value = (each.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for each in projected)
        if self._of_a_cpu and torch.is_grad_enabled() and _slow_backward(query, key, value):
            query, key, value = query.float(), key.float(), value.float()
        mixed = functional.scaled_dot_product_attention(query, key, value)  # (b, heads, n, d)
        return attn.to_out[0](mixed.to(hidden_states.dtype).transpose(1, 2).flatten(2))


def _slow_backward(*tensors: Tensor) -> bool:
    first = tensors[0]
    return first.device.type == "cpu" and first.dtype == torch.bfloat16 and any(t.requires_grad for t in tensors)


def make_lean(unet: Any) -> None:
    """Let ``unet``'s blocks leave out what does nothing. A UNet with blocks of another kind keeps those as they are."""
    blocks = [module for module in unet.modules() if isinstance(module, ResnetBlock2D)]
    if unet.time_embed_act is None and all(map(_is_plain_block, blocks)):
        unet.time_embed_act = nn.SiLU()
        for block in blocks:
            block.__class__ = _LeanResnetBlock
    on_a_cpu = unet.device.type == "cpu"
    for module in unet.modules():
        if isinstance(module, Attention) and _is_plain_attention(module):
            module.set_processor(_LeanProcessor(on_a_cpu))
            module.__class__ = _LeanAttention


def _is_plain_block(block: ResnetBlock2D) -> bool:
    resizes = block.upsample is not None or block.downsample is not None
    told = block.time_emb_proj is not None and block.time_embedding_norm == "default" and not block.skip_time_act
    return (
        told and not resizes and isinstance(block.nonlinearity, nn.SiLU)
        and block.output_scale_factor == 1 and not block.dropout.p
    )  # fmt: skip


def _is_plain_attention(attn: Attention) -> bool:
    norms = (attn.spatial_norm, attn.group_norm, attn.norm_cross, attn.norm_q, attn.norm_k)
    scales = attn.rescale_output_factor != 1 or attn.residual_connection
    return type(attn.processor) is AttnProcessor2_0 and not any(norms) and not scales and not attn.to_out[1].p
