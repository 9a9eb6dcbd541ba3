"""How many samples go through the models at a time: what the settings say, or what the GPU's free memory holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from singleinsert.errors import SingleInsertError

SHARE = 0.9  # of the free memory that is counted on; the rest is for pieces that no tensor fits into


class MicroBatch:
    """Cuts a step's samples into pieces, all of a step's numbers being sums over samples.

    Without a size asked for, a stage on a GPU begins with ONE sample, sees how much memory that takes, and goes on
    with as many as fit. Where memory runs out all the same, half as many are tried.

    Attributes:
        together: does a sample go through the denoiser with both of its prompts at once? Where a size was asked for,
            memory is what counts, and they go one after the other.
    """

    def __init__(
        self, asked: int, device: torch.device, say: Callable[[str], None],
        say_out_of_memory: Callable[[str], None] | None = None,
    ) -> None:  # fmt: skip
        self.device, self._say, self._say_out_of_memory = device, say, say_out_of_memory or say
        self._measures = asked == 0 and device.type == "cuda"
        self._asked = asked
        self._size: int | None = asked or None
        self.together = False
        self._probe: int | None = None
        self._given = 1

    def begin(self, trainable_bytes: int, two_prompts: bool = False) -> None:
        """A new stage, which will keep gradients and two moments of ``trainable_bytes`` on the device; ``two_prompts``:
        the denoiser sees each sample twice."""
        self._to_come = 3 * trainable_bytes
        self.together = two_prompts and self._asked == 0
        if self._measures:
            self._size = self._probe = None

    def pieces(self, samples: range, most: int) -> Iterator[range]:
        """``samples`` in pieces of like size, of at most ``most``."""
        while samples:
            self._given = self._next(len(samples), most)
            yield samples[: self._given]
            samples = samples[self._given :]

    def _next(self, remaining: int, most: int) -> int:
        if self._measures and self._size is None and remaining > 1:
            if self._probe is None:
                torch.cuda.reset_peak_memory_stats(self.device)
                self._probe = torch.cuda.memory_allocated(self.device)
                return 1
            self._size = self._fitting(torch.cuda.max_memory_allocated(self.device) - self._probe)
            if self._size < min(remaining, most):
                self._say(f"{self._size} samples at a time fit the free memory")
        size = min(most, self._size or most)
        return -(-remaining // -(-remaining // size))

    def _fitting(self, one_sample: int) -> int:
        free, _ = torch.cuda.mem_get_info(self.device)
        cached = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return max(1, int(SHARE * (free + cached - self._to_come) / max(1, one_sample)))

    def halve(self, error: Exception) -> bool:
        """After ``error``: was it memory that ran out, so that a smaller piece may do?

        Raises:
            SingleInsertError: a piece was one sample.
        """
        from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

        if not should_reduce_batch_size(error):
            return False
        if self._given == 1 and self.together:
            self.together = False
            self._say("out of memory with both prompts of a sample at a time: going on with one after the other")
            clear_device_cache()
            return True
        if self._given == 1:
            raise SingleInsertError(
                "out of memory with one sample at a time: use --low_vram, or a smaller --resolution, or close other "
                "programs that use the GPU"
            ) from error
        self._size = self._given // 2
        self._say_out_of_memory(f"out of memory with {self._given} samples at a time: going on with {self._size}")
        clear_device_cache()
        return True


def out_of_memory(problem: BaseException | None) -> bool:
    """Did memory run out, on a device or here, at the root of it?"""
    from accelerate.utils.memory import should_reduce_batch_size

    while problem is not None:
        if isinstance(problem, MemoryError | torch.OutOfMemoryError):
            return True
        if isinstance(problem, RuntimeError) and (
            should_reduce_batch_size(problem) or "No executable batch size found" in str(problem)
        ):
            return True
        problem = problem.__cause__
    return False
