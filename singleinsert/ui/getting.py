"""Getting a concept out: a zip for each client with where its files go, copies into a client's folder, a test there."""

from __future__ import annotations

import io
import json
import shutil
import time
import urllib.error
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from singleinsert.atomic import write_atomically
from singleinsert.claims import read_object
from singleinsert.data.subject import BACKGROUND
from singleinsert.errors import InputError, first_line
from singleinsert.ui.place import Place
from singleinsert.ui.runs import Run

EMBEDDINGS, LORAS = "embeddings", "Lora"
EMBEDDED = "embedding:"
"""How a prompt of ComfyUI calls for an embedding."""
STAMP = (2020, 1, 1, 0, 0, 0)
"""Of files in a zip, so that the same files make the same zip."""
SECONDS = 300
"""That a picture in ComfyUI may take."""


@dataclass(frozen=True)
class Client:
    """A program that draws with the files.

    Attributes:
        embeddings, loras: where it has them. besides: what a prompt cannot say.
    """

    key: str
    title: str
    embeddings: str
    loras: str
    prompt: str
    besides: str = ""


CLIENTS = (
    Client("a1111", "AUTOMATIC1111, Forge", "embeddings", "models/Lora",
           "{things} on the beach <lora:{lora}:1>"),
    Client("comfyui", "ComfyUI", "models/embeddings", "models/loras",
           "{embedded} on the beach", "with a Load LoRA node for {lora}, strength 1 for model and clip"),
    Client("diffusers", "diffusers", ".", ".", "{things} on the beach"),
    Client("all", "Everything", ".", ".", "{things} on the beach"),
)  # fmt: skip


@dataclass(frozen=True)
class Exported:
    """A run's files for clients, by kind."""

    embeddings: list[Path]
    lora: list[Path]
    artifact: list[Path]

    @property
    def triggers(self) -> list[str]:
        return [path.stem for path in self.embeddings if path.suffix == ".safetensors"]

    def things(self, before: str = "") -> str:
        """How a prompt names what was learnt, as each embedding's own card says it; a background only by itself."""
        said = {
            path.stem: str(read_object(path.with_suffix(".json")).get("activation text") or path.stem)
            for path in self.embeddings if path.suffix == ".safetensors"
        }  # fmt: skip
        subjects = [text for trigger, text in said.items() if not trigger.endswith(BACKGROUND)] or list(said.values())
        return " and ".join(before + text for text in subjects)

    def prompt(self, client: Client, lora: str) -> str:
        return client.prompt.format(things=self.things(), embedded=self.things(EMBEDDED), lora=lora)

    def besides(self, client: Client, lora: str) -> str:
        """What goes with the prompt; nothing where there is no LoRA."""
        return client.besides.format(lora=lora) if self.lora else ""


def exported(run: Run) -> Exported:
    """InputError where the run has left none."""
    lora_stem = f"{run.name}_lora"
    files = sorted(path for path in run.folder.iterdir() if path.is_file()) if run.folder.is_dir() else []
    ends = (".safetensors", ".json", ".preview.png")
    others = ("_artifact", "_bundle", "_job")
    stems = {path: path.name.removesuffix(next((end for end in ends if path.name.endswith(end)), "")) for path in files}
    plain = [p for p in files if stems[p] != p.name and not stems[p].endswith(others) and stems[p].startswith(run.name)]
    lora = [path for path in plain if stems[path] == lora_stem]
    embeddings = [path for path in plain if stems[path] != lora_stem]
    if not embeddings:
        raise InputError(f"{run.name} has no files for clients yet")
    return Exported(embeddings, lora, [path for path in files if path.name == f"{run.name}_artifact.safetensors"])


def cards(place: Place, run: Run) -> list[dict[str, Any]]:
    """For each client: its files, where they go, the prompt, and whether a folder of it is known."""
    files = exported(run)
    found = []
    for client in CLIENTS:
        folders = [str(folder) for folder in place.clients if kind_of_folder(folder) == client.key]
        found.append({
            "key": client.key, "title": client.title, "prompt": files.prompt(client, f"{run.name}_lora"),
            "besides": files.besides(client, f"{run.name}_lora"), "folders": folders,
            "files": [{"name": p.name, "goes": client.embeddings} for p in files.embeddings]
            + [{"name": p.name, "goes": client.loras} for p in files.lora]
            + [{"name": p.name, "goes": "."} for p in files.artifact if client.key == "all"],
        })  # fmt: skip
    return found


def make_zip(run: Run, key: str) -> bytes:
    """The files in folders as the client has them, and a text that says what to do. InputError for no such client."""
    client = next((client for client in CLIENTS if client.key == key), None)
    if client is None:
        raise InputError("there is no such client")
    files = exported(run)
    placed = [(client.embeddings, path) for path in files.embeddings] + [(client.loras, path) for path in files.lora]
    if key == "all":
        placed += [(".", path) for path in files.artifact]
    lora = f"{run.name}_lora"
    where = "where you like" if key == "all" else f"into the folder of {client.title}"
    lines = [f"Unpack this {where}. Then ask for:", "", files.prompt(client, lora), files.besides(client, lora)]
    told = "\n".join(lines).rstrip() + "\n"
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
        for folder, path in placed:
            name = path.name if folder == "." else f"{folder}/{path.name}"
            file.writestr(zipfile.ZipInfo(name, STAMP), path.read_bytes())
        file.writestr(zipfile.ZipInfo(f"{run.name}.txt", STAMP), told)
    return content.getvalue()


def kind_of_folder(folder: Path) -> str:
    """Which client a folder is of: "a1111", "comfyui", or "" for none."""
    if (folder / "models" / "loras").is_dir() or (folder / "comfy").is_dir():
        return "comfyui"
    return "a1111" if (folder / "models" / "Lora").is_dir() or (folder / "webui.py").is_file() else ""


def copy_into(place: Place, run: Run, folder: str) -> list[str]:
    """Copy the files into a configured client's folder; returns where they are. InputError for any other folder, and
    where other files of these names are there."""
    target = next((path for path in place.clients if str(path) == folder), None)
    if target is None:
        raise InputError("that folder is not one of --client's: start the program with it")
    client = next((client for client in CLIENTS if client.key == kind_of_folder(target)), None)
    if client is None:
        raise InputError(f"{target} looks neither like A1111 or Forge nor like ComfyUI")
    files = exported(run)
    pairs = [(path, target / client.embeddings / path.name) for path in files.embeddings]
    pairs += [(path, target / client.loras / path.name) for path in files.lora]
    for source, there in pairs:
        if there.exists() and there.read_bytes() != source.read_bytes():
            raise InputError(f"{there} is there and is another file: move it away first")
    for source, there in pairs:
        write_atomically(there, lambda file, source=source: shutil.copyfile(source, file))  # type: ignore[misc]
    return [str(there) for _, there in pairs]


# a test in a running ComfyUI


def comfyui_workflow(checkpoint: str, prompt: str, lora: str, size: int, seed: int, steps: int) -> dict[str, Any]:
    """A graph for ``POST /prompt``: checkpoint, LoRA, prompt with the embedding, sampler, picture."""
    model, clip = (["2", 0], ["2", 1]) if lora else (["1", 0], ["1", 1])
    graph: dict[str, Any] = {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": checkpoint}},
        "3": {"class_type": "CLIPTextEncode", "inputs": {"text": prompt, "clip": clip}},
        "4": {"class_type": "CLIPTextEncode", "inputs": {"text": "", "clip": clip}},
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": size, "height": size, "batch_size": 1}},
        "6": {"class_type": "KSampler", "inputs": {
            "model": model, "positive": ["3", 0], "negative": ["4", 0], "latent_image": ["5", 0], "seed": seed,
            "steps": steps, "cfg": 7.5, "sampler_name": "ddim", "scheduler": "normal", "denoise": 1.0}},
        "7": {"class_type": "VAEDecode", "inputs": {"samples": ["6", 0], "vae": ["1", 2]}},
        "8": {"class_type": "SaveImage", "inputs": {"images": ["7", 0], "filename_prefix": "singleinsert_test"}},
    }  # fmt: skip
    if lora:
        graph["2"] = {"class_type": "LoraLoader", "inputs": {
            "model": ["1", 0], "clip": ["1", 1], "lora_name": lora,
            "strength_model": 1.0, "strength_clip": 1.0}}  # fmt: skip
    return graph


def comfyui_choices(address: str, run: Run) -> dict[str, Any]:
    """What a running ComfyUI has: checkpoints, and whether the run's files are there. InputError where none runs."""
    info = _ask(f"{address}/object_info/CheckpointLoaderSimple")
    loras = _ask(f"{address}/object_info/LoraLoader")
    try:
        checkpoints = info["CheckpointLoaderSimple"]["input"]["required"]["ckpt_name"][0]
        names = loras["LoraLoader"]["input"]["required"]["lora_name"][0]
    except (KeyError, IndexError, TypeError) as problem:
        raise InputError(f"what answers at {address} is no ComfyUI") from problem
    embeddings = [str(name) for name in _ask(f"{address}/embeddings")]
    lora = next((str(name) for name in names if Path(str(name)).stem == f"{run.name}_lora"), "")
    files = exported(run)
    is_ready = all(trigger in embeddings for trigger in files.triggers) and bool(lora or not files.lora)
    return {"checkpoints": checkpoints, "lora": lora, "ready": is_ready}


def draw_in_comfyui(address: str, run: Run, checkpoint: str, size: int, seed: int, steps: int) -> bytes:
    """The PNG that a running ComfyUI draws with the run's files. InputError, one line, where it does not."""
    known = comfyui_choices(address, run)
    if checkpoint not in known["checkpoints"]:
        raise InputError("choose one of ComfyUI's checkpoints")
    if not known["ready"]:
        raise InputError("ComfyUI does not have the files yet: copy them into its folder, and refresh it")
    graph = comfyui_workflow(checkpoint, exported(run).things(EMBEDDED), known["lora"], size, seed, steps)
    number = _ask(f"{address}/prompt", {"prompt": graph}).get("prompt_id")
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        told = _ask(f"{address}/history/{number}").get(str(number), {})
        images = told.get("outputs", {}).get("8", {}).get("images", [])
        if images:
            image = images[0]
            query = urlencode({key: image[key] for key in ("filename", "subfolder", "type")})
            return _fetch(f"{address}/view?{query}")
        if told.get("status", {}).get("status_str") == "error":
            raise InputError(f"ComfyUI could not draw it: {_why(told)}")
        time.sleep(0.5)
    raise InputError(f"ComfyUI has not drawn it in {SECONDS} s")


def _why(told: dict[str, Any]) -> str:
    for kind, facts in told.get("status", {}).get("messages", []):
        if kind == "execution_error":
            return str(facts.get("exception_message", "no reason given")).strip()[:300]
    return "no reason given"


def _ask(url: str, body: dict[str, Any] | None = None) -> Any:
    try:
        return json.loads(_fetch(url, None if body is None else json.dumps(body).encode()))
    except ValueError as problem:
        raise InputError(f"what answers at {url} is no ComfyUI") from problem


def _fetch(url: str, body: bytes | None = None) -> bytes:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"} if body else {})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is on this machine
    try:
        with opener.open(request, timeout=30) as answer:
            return answer.read()
    except urllib.error.HTTPError as problem:
        said = problem.read()[:300].decode("utf-8", "replace")
        raise InputError(f"ComfyUI refused it ({problem.code}): {said}") from problem
    except OSError as problem:
        raise InputError(
            f"no ComfyUI answers at {url.rpartition('/')[0]}: start it ({first_line(problem)})"
        ) from problem
