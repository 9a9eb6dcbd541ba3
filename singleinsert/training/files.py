"""Where a run writes, and the refusal to write over another one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from singleinsert.errors import InputError


@dataclass(frozen=True)
class RunFiles:
    """The paths of a run called ``name`` in ``folder``. Several runs may share a folder, never a name."""

    folder: Path
    name: str

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints" / self.name

    @property
    def samples(self) -> Path:
        return self.folder / "samples"

    @property
    def logs(self) -> Path:
        return self.folder / "logs" / self.name

    @property
    def losses(self) -> Path:
        return self.logs / "losses.csv"

    @property
    def config(self) -> Path:
        return self.folder / f"{self.name}_config.toml"

    @property
    def sheet(self) -> Path:
        return self.folder / f"{self.name}_sheet.png"

    @property
    def artifact(self) -> Path:
        return self.folder / f"{self.name}_artifact.safetensors"

    def sample(self, stage: str, step: int, index: int) -> Path:
        return self.samples / f"{self.name}_{stage}_{step:06d}_{index:02d}.png"

    def check_free(self, resuming: bool, checkpoint: Path | None) -> None:
        """Make the folder.

        Args:
            resuming: the run is asked to go on. checkpoint: from here, None where there is none yet.

        Raises:
            InputError: it holds another run of this name and this is not its continuation, or it cannot be made.
        """
        ends = ("_artifact.safetensors", ".safetensors", "_lora.safetensors", ".json", ".preview.png")
        finished = any((self.folder / (self.name + end)).exists() for end in ends)
        if not resuming and (finished or any(self.checkpoints.glob("*"))):
            raise InputError(
                f"{self.folder} holds another run called {self.name}: choose another --output_name or --output_dir, "
                "or go on with it by --resume_from_checkpoint latest"
            )
        if resuming and checkpoint is None and finished:
            raise InputError(f"{self.folder} holds the finished run {self.name}, without a checkpoint to go on from")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"output folder {self.folder} cannot be made: {error.strerror}") from error
