"""Dtypes by the names that settings and files have for them."""

from __future__ import annotations

import torch

DTYPES = {"no": torch.float32, "fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
"""accelerate says "no" where a file says "fp32"."""
