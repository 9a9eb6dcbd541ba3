"""What a launcher of several processes says: each worker here is alone, with one GPU of its own."""

from __future__ import annotations

import os

DISTRIBUTED = (
    "WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE", "ROLE_RANK",
    "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT",
)  # fmt: skip


def stand_alone() -> tuple[int, int]:
    """Forget the other processes, so that accelerate does not share one job out to all; before torch looks at GPUs.

    Returns:
        (this process's place on its machine, processes there).
    """
    rank, processes = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if processes > 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        devices = visible.split(",") if visible else [str(i) for i in range(processes)]
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[rank % len(devices)]
    for name in DISTRIBUTED:
        os.environ.pop(name, None)
    return rank, processes
