"""What script, batch and page see of a run, and how they ask it to stop: one protocol for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol


class Watch(Protocol):
    """Told of a run by the main process alone."""

    def line(self, text: str) -> None:
        """A line meant for the user."""

    def step(self, stage: str, step: int, steps: int, losses: Mapping[str, float]) -> None:
        """An optimiser step was made: the ``step``-th of the stage's ``steps``.

        ``losses``: each term, "loss" (their sum) and "learning_rate". On a GPU several steps are told at once.
        """

    def pictures(
        self, stage: str, step: int, prompts: Sequence[str], files: Sequence[Path], seeds: Sequence[int] = ()
    ) -> None:
        """Samples were drawn and written: ``files`` in the order of ``prompts`` and ``seeds``.

        ``stage`` is "before" for what the frozen model draws for the class words alone.
        """

    def checkpoint(self, file: Path) -> None:
        """The run's state was saved."""

    def looked(self, found: Mapping[str, Mapping[str, Any]]) -> None:
        """What came back with each concept, by its name; as :meth:`Entanglement.numbers` gives it."""

    def out_of_memory(self, text: str) -> None:
        """Memory ran out, and the run goes on with less at a time; ``text`` is for the user."""

    def asked_to_stop(self) -> int:
        """The signal number with which the run is to save its state and leave after this step; 0: go on."""

    def asked_to_finish(self) -> bool:
        """Is the run to end after this step, with what it has learnt as its result?"""

    def asked_for_samples(self) -> bool:
        """Are the sample prompts to be drawn after this step, whatever the settings say?"""


class SilentWatch:
    """Sees nothing and asks for nothing; a base for watches that care about a part."""

    def line(self, text: str) -> None:
        pass

    def step(self, stage: str, step: int, steps: int, losses: Mapping[str, float]) -> None:
        pass

    def pictures(
        self, stage: str, step: int, prompts: Sequence[str], files: Sequence[Path], seeds: Sequence[int] = ()
    ) -> None:
        pass

    def checkpoint(self, file: Path) -> None:
        pass

    def looked(self, found: Mapping[str, Mapping[str, Any]]) -> None:
        pass

    def out_of_memory(self, text: str) -> None:
        self.line(text)

    def asked_to_stop(self) -> int:
        return 0

    def asked_to_finish(self) -> bool:
        return False

    def asked_for_samples(self) -> bool:
        return False


class ConsoleWatch(SilentWatch):
    """Prints lines above the progress bar, where there is one."""

    def line(self, text: str) -> None:
        from tqdm.auto import tqdm

        tqdm.write(text)


class Watches(SilentWatch):
    """Several watches as one."""

    def __init__(self, *watches: Watch) -> None:
        self.watches = watches

    def line(self, text: str) -> None:
        for watch in self.watches:
            watch.line(text)

    def step(self, stage: str, step: int, steps: int, losses: Mapping[str, float]) -> None:
        for watch in self.watches:
            watch.step(stage, step, steps, losses)

    def pictures(
        self, stage: str, step: int, prompts: Sequence[str], files: Sequence[Path], seeds: Sequence[int] = ()
    ) -> None:
        for watch in self.watches:
            watch.pictures(stage, step, prompts, files, seeds)

    def checkpoint(self, file: Path) -> None:
        for watch in self.watches:
            watch.checkpoint(file)

    def looked(self, found: Mapping[str, Mapping[str, Any]]) -> None:
        for watch in self.watches:
            watch.looked(found)

    def out_of_memory(self, text: str) -> None:
        for watch in self.watches:
            watch.out_of_memory(text)

    def asked_to_stop(self) -> int:
        return max(watch.asked_to_stop() for watch in self.watches)

    def asked_to_finish(self) -> bool:
        return any([watch.asked_to_finish() for watch in self.watches])

    def asked_for_samples(self) -> bool:
        return any([watch.asked_for_samples() for watch in self.watches])  # each of them forgets that it was asked
