"""Where a run writes, and the refusal to write over another one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from singleinsert.config.load import all_fields, read_values
from singleinsert.errors import ConfigError, InputError

RESULTS = (
    "_artifact.safetensors", ".safetensors", "_lora.safetensors", ".json", "_lora.json", ".preview.png",
    "_lora.preview.png", "_bundle.safetensors", "_diffusers", "_sheet.png",
)  # fmt: skip
"""How the names of a finished run's files end, in every format of :mod:`singleinsert.export`."""


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
    def wandb_id(self) -> Path:
        return self.logs / "wandb_id"

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

    def mask_name(self, place: int, of: int) -> str:
        """Stem of a mask's files, of the ``place``-th of several."""
        return self.name if of == 1 else f"{self.name}_{place + 1:02d}"

    def check_free(self, resuming: bool, checkpoint: Path | None) -> None:
        """Make the folder.

        Args:
            resuming: the run is asked to go on. checkpoint: from here, None where there is none yet; one from
                elsewhere begins a run here.

        Raises:
            InputError: it holds another run of this name and this is not its continuation, or it cannot be made.
        """
        finished = any((self.folder / (self.name + end)).exists() for end in RESULTS)
        continued = resuming and (checkpoint is None or checkpoint.resolve().parent == self.checkpoints.resolve())
        begun = any(self.checkpoints.glob("*"))
        if not continued and (finished or begun):
            raise InputError(
                f"{self.folder} holds another run called {self.name}: choose another --output_name or --output_dir"
                + (", or go on with it by --resume_from_checkpoint latest" if begun and not resuming else "")
                + self._way_out()
            )
        if resuming and checkpoint is None and finished:
            raise InputError(
                f"{self.folder} holds the finished run {self.name}, without a checkpoint to go on from{self._way_out()}"
            )
        if not resuming and not self._config_is_ours():
            raise InputError(
                f"{self.config} was not written by a run, and this one would replace it: move it, or choose another "
                "--output_name or --output_dir"
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"output folder {self.folder} cannot be made: {error.strerror}") from error

    def _way_out(self) -> str:
        """For a run that was stopped between its artifact and the clients' files."""
        lost = self.artifact.exists() and not (self.folder / f"{self.name}.safetensors").exists()
        return f"; its files for the clients: python -m singleinsert.export {self.artifact}" if lost else ""

    def _config_is_ours(self) -> bool:
        """A run writes every key; what somebody wrote by hand seldom holds them all. True where none is there."""
        if not self.config.exists():
            return True
        try:
            return read_values(self.config).keys() == {key for key, _, _ in all_fields()}
        except ConfigError:
            return False
