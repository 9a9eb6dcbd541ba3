"""Shared fixtures. Offline is set before any heavy import, or a missing hub file costs 47 seconds of retries."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ["OMP_NUM_THREADS"] = "1"  # tests compare processes to the bit, and sums depend on it
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import pytest  # noqa: E402 (after the environment is set)
from hypothesis import HealthCheck, settings  # noqa: E402

SLOW = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.data_too_large]
# the same cases each time: a test that fails for one in a thousand says nothing to who meets it
settings.register_profile("quick", max_examples=40, deadline=None, derandomize=True, suppress_health_check=SLOW)
settings.register_profile("long", max_examples=10_000, deadline=None, suppress_health_check=SLOW)
settings.load_profile("long" if os.environ.get("SINGLEINSERT_LONG_TESTS") else "quick")


LONG = ("test_cost", "test_kills", "test_batch_worker", "test_evaluate", "test_flow_run", "test_train_script",
        "test_longer", "test_entanglement", "test_batch_processes", "test_sdxl_run", "test_golden_mini")  # fmt: skip
"""Files of tests that take longest; they begin first, in that order, or one process waits for the other."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONG.index(item.path.stem) if item.path.stem in LONG else len(LONG))


def pytest_collection_finish() -> None:
    """What is imported by then stays: without it the collector goes through a million objects less, again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def make_tiny_sd(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``make_tiny_sd(prediction_type="epsilon", family="sd1")`` -> folder, each combination written once.

    The folder is shared by the whole session: copy it before changing it.
    """
    from tinymodels import write_tiny_sd

    made: dict[tuple[str, str], Path] = {}

    def make(prediction_type: str = "epsilon", family: str = "sd1") -> Path:
        key = (prediction_type, family)
        if key not in made:
            made[key] = write_tiny_sd(tmp_path_factory.mktemp("tiny_sd") / "-".join(key), *key)
        return made[key]

    return make


@pytest.fixture(scope="session")
def tiny_sd(make_tiny_sd: Callable[..., Path]) -> Path:
    """A tiny Stable Diffusion 1.x folder in diffusers' layout, epsilon prediction; read only."""
    return make_tiny_sd()


@pytest.fixture(scope="session")
def make_tiny_sdxl(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``make_tiny_sdxl(prediction_type="epsilon", zero_snr=False)`` -> folder, each combination written once."""
    from tinysdxl import write_tiny_sdxl

    made: dict[tuple[str, bool], Path] = {}

    def make(prediction_type: str = "epsilon", zero_snr: bool = False) -> Path:
        key = (prediction_type, zero_snr)
        if key not in made:
            made[key] = write_tiny_sdxl(tmp_path_factory.mktemp("tiny_sdxl") / f"{prediction_type}{zero_snr}", *key)
        return made[key]

    return make


@pytest.fixture(scope="session")
def tiny_sdxl(make_tiny_sdxl: Callable[..., Path]) -> Path:
    """A tiny Stable Diffusion XL folder in diffusers' layout, epsilon prediction; read only."""
    return make_tiny_sdxl()


@pytest.fixture(scope="session")
def tiny_klein(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny FLUX.2 klein folder in diffusers' layout; read only."""
    from tinyklein import write_tiny_klein

    return write_tiny_klein(tmp_path_factory.mktemp("tiny_klein") / "base")


@pytest.fixture(scope="session")
def tiny_zimage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Z-Image folder in diffusers' layout; read only."""
    from tinyzimage import write_tiny_zimage

    return write_tiny_zimage(tmp_path_factory.mktemp("tiny_zimage") / "base")


@pytest.fixture(scope="session")
def tiny_distilled(tiny_klein: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights, said to be distilled to a few steps; read only."""
    import shutil

    folder = shutil.copytree(tiny_klein, tmp_path_factory.mktemp("tiny_distilled") / "distilled")
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace('"is_distilled": false', '"is_distilled": true'))
    return folder
