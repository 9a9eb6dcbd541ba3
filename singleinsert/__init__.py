"""SingleInsert: a concept from one picture into Stable Diffusion, as an embedding and a LoRA."""

import logging

__version__ = "0.1.0"

# peft imports bitsandbytes, which on newer CPUs misses a package of 4-bit kernels aloud; nothing here is in 4 bits.
# Said here, since this runs before any import of either.
logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(
    lambda record: "Failed to load CPU gemm_4bit_forward" not in record.getMessage()
)
