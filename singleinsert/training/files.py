"""Where a run writes, and the refusal to write over another one."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from singleinsert.atomic import check_folder_to_write, unfinished
from singleinsert.claims import claimed
from singleinsert.config import Settings
from singleinsert.config.load import all_fields, check_name, read_values
from singleinsert.data.folders import picture_paths
from singleinsert.data.opening import check_header
from singleinsert.errors import ConfigError, InputError
from singleinsert.training.signals import launched_by_accelerate

LATEST = "latest"
_CHECKPOINT = re.compile(r"step_(\d+)\.safetensors")

RESULTS = (
    "_artifact.safetensors", ".safetensors", "_lora.safetensors", ".json", "_lora.json", ".preview.png",
    "_lora.preview.png", "_bundle.safetensors", "_diffusers", "_sheet.png",
)  # fmt: skip
"""How the names of a finished run's files end, in every format of :mod:`singleinsert.export`."""
OWN_ENDS = (*RESULTS, "_config.toml", "_mask.png", "_mask_overlay.png")
"""The same, of everything that a run writes beside them."""


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

    @property
    def source(self) -> Path:
        """A small copy of what was learnt from, which batches keep."""
        return self.samples / f"{self.name}_source.png"

    @property
    def resume_command(self) -> str:
        """What to type to go on with this run."""
        program = "accelerate launch" if launched_by_accelerate() else "python"
        config = shlex.quote(str(self.config))
        return f"{program} train_singleinsert.py --config_file {config} --resume_from_checkpoint latest"

    def sample(self, stage: str, step: int, index: int) -> Path:
        return self.samples / f"{self.name}_{stage}_{step:06d}_{index:02d}.png"

    def mask_name(self, place: int, of: int) -> str:
        """Stem of a mask's files, of the ``place``-th of several."""
        return self.name if of == 1 else f"{self.name}_{place + 1:02d}"

    def check_free(self, resuming: bool, checkpoint: Path | None) -> None:
        """:meth:`check_taken`, and make the folder. InputError where it cannot be made."""
        self.check_taken(resuming, checkpoint)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"output folder {self.folder} cannot be made: {error.strerror}") from error

    def check_taken(self, resuming: bool, checkpoint: Path | None) -> None:
        """Refuse to write over another run.

        Args:
            resuming: the run is asked to go on. checkpoint: from here, None where there is none yet; one from
                elsewhere begins a run here.

        Raises:
            InputError: it holds another run of this name and this is not its continuation.
        """
        finished = any((self.folder / (self.name + end)).exists() for end in RESULTS)
        continued = resuming and (checkpoint is None or checkpoint.resolve().parent == self.checkpoints.resolve())
        begun = any(self.checkpoints.glob("step_*"))  # not what a killed write has left there
        if not continued and (finished or begun):
            raise InputError(
                f"{self.folder} holds another run called {self.name}: choose another --output_name or --output_dir"
                + (f", or go on with it: {self.resume_command}" if begun and not resuming else "")
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

    @contextmanager
    def claimed(self, resuming: bool, checkpoint: Path | None) -> Iterator[None]:
        """Within it, no other run of this name writes here; what killed ones have left half written is removed.

        For one process of the run, after :meth:`check_free`. Raises InputError where another run has the name.
        """
        with claimed(self.folder, self.name):
            self.check_free(resuming, checkpoint)  # one may have finished meanwhile
            for path in self._unfinished():
                path.unlink(missing_ok=True)
            yield

    def _unfinished(self) -> list[Path]:
        """What a write of this run's that was killed has left; of runs with other names in the same folder nothing."""
        own = rf"{re.escape(self.name)}(_\d\d)?({'|'.join(map(re.escape, OWN_ENDS))}|_stage\d_\d+_\d+\.png)"
        shared = [
            path
            for folder in (self.folder, self.folder / f"{self.name}_diffusers", self.samples)
            for path, name in unfinished(folder).items()
            if folder.name == f"{self.name}_diffusers" or re.fullmatch(own, name)
        ]
        return [*shared, *unfinished(self.checkpoints), *unfinished(self.logs)]

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


def checkpoint_path(folder: Path, global_step: int) -> Path:
    """Where a checkpoint after that many steps of the run lies."""
    return folder / f"step_{global_step:06d}.safetensors"


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in ``folder``, oldest step first."""
    found = {path: _CHECKPOINT.fullmatch(path.name) for path in folder.glob("step_*.safetensors")}
    return sorted((path for path, match in found.items() if match), key=lambda path: int(found[path][1]))  # type: ignore[index]


def find_checkpoint(asked: str, folder: Path) -> Path | None:
    """The file behind ``--resume_from_checkpoint``: "latest" in ``folder`` (None if there is none yet) or a path.

    Raises:
        InputError: a path that is not there.
    """
    if asked == LATEST:
        return next(reversed(checkpoints(folder)), None)
    path = Path(asked)
    if path.is_dir():
        newest = next(reversed(checkpoints(path)), None)
        if newest is None:
            raise InputError(f"no checkpoint in folder {path}: its files are called step_<n>.safetensors")
        return newest
    if not path.is_file():
        raise InputError(f"no checkpoint {path}: give a file, a folder of them, or {LATEST}")
    return path


def check_early(settings: Settings) -> None:
    """What can be seen to be wrong with a run in no time, before torch is imported.

    Raises:
        InputError, ConfigError: a picture, mask or checkpoint that is not there; a picture or mask whose header says
            that it is none, is too large or of another size than its picture; a name that cannot be; a folder that
            holds another run or cannot be written to.
    """
    check_name(settings)
    for key, paths in (("--image", settings.data.image), ("--mask", settings.data.mask)):
        for path in paths:
            if not Path(path).exists():
                raise InputError(f"{key} {path}: there is no such file or folder")
    sizes = [check_header(path) for path in picture_paths(settings.data.image)]
    for path in settings.data.mask:
        if Path(path).is_file():  # with several pictures, which mask is whose is not known here
            check_header(path, "mask", sizes[0] if len(sizes) == 1 else None)
    files, resume = RunFiles(settings.output_dir, settings.name), settings.run.resume_from_checkpoint
    files.check_taken(bool(resume), find_checkpoint(resume, files.checkpoints) if resume else None)
    check_folder_to_write(files.folder, f"output folder {files.folder} cannot be made")
