"""What commands import: minutes of a day go into modules that nobody needs. Read from python's own list of imports."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image
from tinyconcepts import make_concept

from singleinsert.imports import importing
from singleinsert.models.vocabulary import byte_letters, clip_tokenizer, clip_tokens

ROOT = Path(__file__).resolve().parent.parent
IMPORT = re.compile(r"import time:\s+\d+ \|\s+\d+ \|\s+([\w.]+)")

OURS = {"singleinsert", "train_singleinsert", "infer_singleinsert"}
NEEDED = {
    "PIL", "accelerate", "cython_runtime", "diffusers", "huggingface_hub", "numpy", "peft", "safetensors", "tokenizers",
    "toml", "torch", "tqdm", "transformers",
}  # fmt: skip
"""What a run is made of."""
OF_THESE = {
    "anyio", "certifi", "charset_normalizer", "filelock", "fsspec", "google", "h11", "httpcore2", "httpx2", "idna",
    "jinja2", "markupsafe", "mpmath", "packaging", "pillow_heif", "psutil", "regex", "requests", "scipy", "sympy",
    "torchgen", "truststore", "typing_extensions", "urllib3", "yaml",
}  # fmt: skip
"""What those import by themselves. Where they are installed: scipy, for tests and studies, and Pillow's HEIC reader."""
HEAVY = (
    "singleinsert.batch", "singleinsert.evaluate", "singleinsert.hosts", "singleinsert.inference", "singleinsert.merge",
    "singleinsert.metrics", "singleinsert.ui", "singleinsert.captions.local", "singleinsert.masks.editor",
    "PIL.ImageCms", "torch.utils.tensorboard", "torch._inductor.compile_fx",
    "transformers.pipelines", "transformers.trainer", "transformers.models.bert",
)  # fmt: skip
"""Parts that a run of the miniature must not import, with everything in them."""


def imported(folder: Path, script: str, *words: str) -> set[str]:
    """Names of the modules that a command imports."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(ROOT / script), *words],
        capture_output=True, text=True, encoding="utf-8", cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    said = "\n".join(line for line in done.stderr.splitlines() if not line.startswith("import time:"))
    assert done.returncode == 0, said
    return set(IMPORT.findall(done.stderr))


def strangers(names: set[str]) -> set[str]:
    """Packages that are neither Python's nor known here. Python also lists what is tried and not there."""
    own = set(sys.stdlib_module_names) | set(sys.builtin_module_names) | NEEDED | OF_THESE | OURS
    tops = {name.split(".")[0] for name in names} - own
    # no stranger: a hook of the environment, or a compiled part of a package that lies beside it
    return {top for top in tops if not top.startswith(("_", "sitecustomize", "usercustomize")) and find_spec(top)}


def heavy(names: set[str], parts: tuple[str, ...]) -> set[str]:
    return {name for name in names if any(name == part or name.startswith(part + ".") for part in parts)}


def pipelines(names: set[str]) -> set[str]:
    found = {name.split(".")[2] for name in names if name.startswith("diffusers.pipelines.")}
    return found - {"pipeline_loading_utils", "pipeline_utils"}


def test_a_run_of_the_miniature_imports_what_it_needs(tmp_path):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "face.png")
    mask = Image.new("L", (64, 64))
    mask.paste(255, (16, 16, 48, 48))
    mask.save(tmp_path / "face_mask.png")
    names = imported(
        tmp_path, "train_singleinsert.py", "--preset", "mini", "--image", "face.png", "--output_name", "mexyz",
        "--stage1_steps", "1", "--stage2_steps", "1", "--set", "sample.prompts=[]",
    )  # fmt: skip
    assert (tmp_path / "output/mexyz/mexyz.safetensors").is_file()
    assert {"torch", "diffusers", "transformers", "singleinsert.training.loop"} <= names  # so that the list is one
    assert not strangers(names)
    assert not heavy(names, HEAVY)
    assert pipelines(names) == {"stable_diffusion"}


def test_drawing_imports_what_it_needs(tiny_sd, tmp_path):
    make_concept(tiny_sd, "anna").save(tmp_path / "anna_artifact.safetensors")
    names = imported(
        tmp_path, "infer_singleinsert.py", "--concept", "anna_artifact.safetensors", "--prompt", "{concept}",
        "--num_inference_steps", "1", "--width", "32", "--height", "32",
    )  # fmt: skip
    assert {"torch", "diffusers", "singleinsert.inference.pipeline"} <= names
    assert not strangers(names)
    needed = {"singleinsert.inference", "PIL.ImageCms"}
    assert not heavy(names, tuple(part for part in HEAVY if part not in needed))


@pytest.mark.parametrize("name", ["cat", "mexyz"])
def test_a_name_is_judged_without_transformers(name, tmp_path):
    program = (
        f"from singleinsert.models.trigger import common_word_note as n; assert bool(n({name!r})) is {name == 'cat'}"
    )
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", program],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not {"torch", "transformers"} & set(IMPORT.findall(done.stderr))


def test_the_vocabulary_is_that_of_transformers():
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    assert byte_letters() == list(bytes_to_unicode().values())
    assert clip_tokenizer("sd1").get_vocab() == {token: place for place, token in enumerate(clip_tokens())}


def test_the_collector_rests_during_imports(monkeypatch):
    import gc

    frozen = []
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(True))
    with pytest.raises(ZeroDivisionError), importing():
        assert not gc.isenabled()
        raise ZeroDivisionError
    assert gc.isenabled() and not frozen  # nothing was imported
    with importing():
        monkeypatch.setitem(sys.modules, "a_module_of_this_test", sys)
    assert gc.isenabled() and frozen
    gc.disable()
    try:
        with importing():
            pass
        assert not gc.isenabled()  # as it was
    finally:
        gc.enable()
