"""How a run goes: where to, on what, and how it saves memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from singleinsert.config.declare import setting


@dataclass(frozen=True)
class RunSettings:
    """How the training runs."""

    output_dir: str = setting("", "folder of everything the run writes; empty: output/NAME", free=True, path=True)
    output_name: str = setting(
        "", "NAME of the files and trigger word in WebUIs; empty: the picture's file name", free=True
    )
    seed: int = setting(0, "every random number depends on it", minimum=0, maximum=2**32 - 1)
    mixed_precision: Literal["auto", "no", "fp16", "bf16"] = setting(
        "auto",
        "precision of the frozen weights and of the forward pass; no: float32; auto: what accelerate launch says, "
        "otherwise half precision on a GPU (bf16 if it has that) and float32 on a CPU; what trains is always float32",
        loaded=True,
    )
    gradient_accumulation_steps: int = setting(
        1, "batches whose gradients are added up for an optimiser step", minimum=1, maximum=1024
    )
    micro_batch_size: int = setting(
        0, "samples that go through the models at a time: less memory, the same result; 0: as many as fit the GPU's "
        "free memory",
        minimum=0, maximum=4096, free=True,
    )  # fmt: skip
    use_8bit_adam: bool = setting(False, "AdamW with 8-bit state, from bitsandbytes")
    enable_xformers_memory_efficient_attention: bool = setting(
        False, "xformers' attention in place of PyTorch's own", free=True, loaded=True
    )
    gradient_checkpointing: bool = setting(
        False, "recompute activations: less memory, a quarter more arithmetic", free=True, loaded=True
    )
    offload: bool = setting(
        False, "keep image encoder, text encoder and VAE in main memory and run them on the CPU, in float32; only the "
        "denoiser is on the GPU", free=True, loaded=True
    )  # fmt: skip
    quantize: Literal["no", "nf4", "int8"] = setting(
        "no", "frozen weights of the denoiser's and the text encoders' blocks in 4 or 8 bits, by bitsandbytes; the "
        "frozen model is then the quantised one, and the LoRA is trained on it", loaded=True, off="no",
    )  # fmt: skip
    blocks_to_swap: int = setting(
        0, "so many of the denoiser's blocks live in main memory and come to the GPU when they are called; with "
        "gradient_checkpointing", minimum=0, maximum=1000, free=True, loaded=True,
    )  # fmt: skip
    channels_last: bool = setting(
        False, "keep the channels of a pixel together in memory, in denoiser and VAE", free=True, loaded=True
    )
    swap_text_encoders: bool = setting(
        False, "the text encoders' layers live in main memory, never quantised, and come to the GPU when they are "
        "called; with gradient_checkpointing", loaded=True, off=False,
    )  # fmt: skip
    compile: bool = setting(
        False, "torch.compile for the denoiser's transformer blocks; the start takes a minute or more", free=True,
        loaded=True,
    )  # fmt: skip
    cuda_graphs: bool = setting(
        False, "replay a step's passes as CUDA graphs: for cards that are faster than the host tells them what to do; "
        "takes the memory of further passes", free=True,
    )  # fmt: skip
    allow_tf32: bool = setting(
        False, "round factors to TF32 where a GPU computes in float32: faster, less exact", free=True, loaded=True
    )
    checkpointing_steps: int = setting(
        0, "steps between checkpoints; 0: only on Ctrl-C and SIGTERM", minimum=0, free=True
    )
    checkpoints_total_limit: int = setting(2, "checkpoints to keep; 0: all", minimum=0, free=True)
    final_checkpoint: bool = setting(False, "one at the end, too: with more steps, a finished run goes on", free=True)
    resume_from_checkpoint: str = setting("", "a checkpoint, a folder of them, or latest", free=True, path=True)
    report_to: Literal["none", "tensorboard", "wandb", "all"] = setting("none", "trackers of the losses", free=True)
    check: Literal["auto", "on", "off"] = setting(
        "auto", "look after training whether the picture's background or pose came along with the concept: auto, where "
        "that costs less than a tenth of the training", free=True,
    )  # fmt: skip
    teacher_bank: bool = setting(True, "keep the frozen model's predictions of stage I for stage II: a tenth less work")

    @property
    def keeps_weights_apart(self) -> bool:
        """Are frozen weights loaded into main memory first, quantised or to stay there?"""
        return self.quantize != "no" or self.blocks_to_swap > 0 or self.swap_text_encoders

    @property
    def moves_denoiser(self) -> bool:
        """Does the denoiser leave the GPU to make room? Quantised and swapped weights do not travel."""
        return self.offload and self.quantize == "no" and not self.blocks_to_swap
