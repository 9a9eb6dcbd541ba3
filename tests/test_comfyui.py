"""The ComfyUI nodes against stand-ins of the interfaces that they use."""

from __future__ import annotations

import importlib
import json
import math
import re
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

PACK = Path(__file__).parents[1] / "integrations" / "comfyui"


class Interrupted(BaseException):
    """As ComfyUI's InterruptProcessingException, no Exception."""


class Comfy:
    """What of ComfyUI the nodes touch: folders, the LoRA loader, progress, cancel, attention."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.loaded: list[tuple[str, float, float]] = []
        self.progress: list[tuple[int, int, bool]] = []
        self.cancelled = False
        self.freed = 0
        for kind in ("embeddings", "loras", "checkpoints"):
            (root / kind).mkdir(parents=True)

    def files(self, kind: str) -> list[str]:
        return sorted(str(p.relative_to(self.root / kind)) for p in (self.root / kind).rglob("*") if p.is_file())

    def full(self, kind: str, name: str) -> str | None:
        path = self.root / kind / name
        return str(path) if path.exists() else None

    def interrupt(self) -> None:
        if self.cancelled:
            self.cancelled = False
            raise Interrupted

    def modules(self) -> dict[str, ModuleType]:
        comfy = self

        class LoraLoader:
            def load_lora(self, model: Any, clip: Any, name: str, a: float, b: float) -> tuple[Any, Any]:
                comfy.loaded.append((name, a, b))
                return model, clip

        class ProgressBar:
            def __init__(self, total: int) -> None:
                pass

            def update_absolute(self, value: int, total: int, preview: Any = None) -> None:
                comfy.progress.append((value, total, preview is not None))

        def attention(q: Tensor, k: Tensor, v: Tensor, heads: int, **_: Any) -> Tensor:
            q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
            return torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

        def free() -> None:
            comfy.freed += 1

        contents: dict[str, dict[str, Any]] = {
            "folder_paths": {
                "get_filename_list": self.files, "get_full_path": self.full, "get_full_path_or_raise": self.full,
                "get_folder_paths": lambda kind: [str(self.root / kind)],
            },
            "nodes": {"LoraLoader": LoraLoader},
            "comfy": {},
            "comfy.utils": {"ProgressBar": ProgressBar},
            "comfy.model_management": {
                "processing_interrupted": lambda: self.cancelled,
                "throw_exception_if_processing_interrupted": self.interrupt,
                "unload_all_models": free, "soft_empty_cache": lambda: None,
            },
            "comfy.ldm": {}, "comfy.ldm.modules": {},
            "comfy.ldm.modules.attention": {"optimized_attention": attention},
        }  # fmt: skip
        made = {}
        for name, content in contents.items():
            made[name] = ModuleType(name)
            made[name].__dict__.update(content)
        made["comfy"].model_management = made["comfy.model_management"]  # type: ignore[attr-defined]
        return made


@pytest.fixture
def comfy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Comfy]:
    made = Comfy(tmp_path / "models")
    for name, module in made.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.syspath_prepend(str(PACK.parent))
    yield made
    for name in [name for name in sys.modules if name.split(".")[0] == "comfyui"]:
        del sys.modules[name]


def pack(part: str = "") -> Any:
    return importlib.import_module(f"comfyui.{part}" if part else "comfyui")


def put(folder: Path, name: str, own: dict[str, Any] | None, size: int = 8) -> Path:
    path = folder / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"t": torch.ones(1, size)}, path, {"singleinsert": json.dumps(own)} if own else None)
    return path


def own(*concepts: tuple[str, str, str]) -> dict[str, Any]:
    described = [{"name": n, "trigger": t, "class_word": c} for n, t, c in concepts]
    return {"base": {"name": "mini-sd"}, "concepts": described}


def test_files_of_a_real_export_are_found(comfy: Comfy, tiny_sd: Path, tmp_path: Path) -> None:
    """Of the project's own export, not of a header that this test makes up."""
    from tinyconcepts import make_concept

    from singleinsert.export import export

    for path in export(make_concept(tiny_sd), tmp_path / "out", formats=("webui",)):
        if path.suffix != ".safetensors":
            continue
        kind = "loras" if path.stem.endswith("_lora") else "embeddings"
        (comfy.root / kind / path.name).write_bytes(path.read_bytes())
    found = pack("folders").concepts()
    (concept,) = found.values()
    assert concept.lora == f"{concept.name}_lora.safetensors"
    assert [(w.embedding, w.class_word) for w in concept.words] == [(concept.name, "face")]


def test_a_scene_s_lora_finds_its_embeddings_in_folders_and_foreign_files_are_left_out(comfy: Comfy) -> None:
    both = own(("cat", "kitchencat", "cat"), ("mug", "kitchenmug", "mug"))
    put(comfy.root / "loras", "people/kitchen_lora", both)
    put(comfy.root / "embeddings", "kitchencat", own(("cat", "kitchencat", "cat")))
    put(comfy.root / "embeddings", "people/kitchencat", own(("cat", "kitchencat", "cat")))
    put(comfy.root / "embeddings", "people/kitchenmug", own(("mug", "kitchenmug", "mug")))
    put(comfy.root / "embeddings", "alone", own(("alone", "alone", "face")))
    put(comfy.root / "embeddings", "foreign", None)
    bare = own(("bare", "bare", "cup"))
    bare["concepts"][0]["metadata"] = {"alone": True}  # learnt without its class word
    put(comfy.root / "embeddings", "bare", bare)
    (comfy.root / "embeddings" / "broken.safetensors").write_bytes(b"\xff" * 20)
    found = pack("folders").concepts()
    assert set(found) == {"people/kitchen", "alone", "bare", "kitchencat"}
    assert [word.prompt for word in found["bare"].words] == ["embedding:bare"]
    kitchen = found["people/kitchen"]
    assert [w.prompt for w in kitchen.words] == ["embedding:people/kitchencat cat", "embedding:people/kitchenmug mug"]
    fill = pack("concepts").fill_prompt
    assert fill("a photo of {cat}, on {mug}", kitchen) == (
        "a photo of embedding:people/kitchencat cat, on embedding:people/kitchenmug mug"
    )
    assert fill("{concept}", kitchen).count("embedding:") == 2
    assert fill("({cat}:1.2)x{mug}", kitchen) == (
        "( embedding:people/kitchencat cat:1.2)x embedding:people/kitchenmug mug"
    )  # ComfyUI sees a name after white space only


def test_prompts_that_name_no_concept_and_missing_files_are_one_line(comfy: Comfy) -> None:
    put(comfy.root / "loras", "me_lora", own(("me", "me", "face")))
    concept, error = pack("folders").concept("me"), pack("concepts").ConceptError
    with pytest.raises(error, match="no embedding me in ComfyUI's embeddings folder"):
        pack("concepts").fill_prompt("{concept}", concept)
    put(comfy.root / "embeddings", "me", own(("me", "me", "face")))
    concept = pack("folders").concept("me")
    with pytest.raises(error, match=r"\{dog\} names no concept of me: write \{me\} or \{concept\}"):
        pack("concepts").fill_prompt("{dog}", concept)
    with pytest.raises(error, match="the prompt names no concept"):
        pack("concepts").fill_prompt("a face", concept)
    with pytest.raises(error, match="no concept 'you'"):
        pack("folders").concept("you")


class Model:
    """ComfyUI's model: patches by block."""

    def __init__(self, patches: dict[Any, Any] | None = None) -> None:
        self.model_options = {"transformer_options": {"patches_replace": {"attn2": dict(patches or {})}}}

    def clone(self) -> Model:
        return Model(self.patches)

    @property
    def patches(self) -> dict[Any, Any]:
        return self.model_options["transformer_options"]["patches_replace"]["attn2"]

    def set_model_attn2_replace(self, patch: Any, block: str, number: int) -> None:
        self.patches[block, number] = patch


def options(noise: float, halves: list[int]) -> dict[str, Any]:
    return {"n_heads": 2, "sigmas": torch.tensor([noise]), "original_shape": [1, 4, 5, 8], "cond_or_uncond": halves}


def test_attention_of_the_prompt_s_half_is_averaged_and_the_prediction_stays(comfy: Comfy) -> None:
    """Two steps of 3 x 4 pixels (latents of 5 x 8, halved), two heads of width 4. Where q is one, slot 1's score is
    4 * log(3) / 2 / sqrt(4) = log(3) and the two others' 0, so that it gets 3 / 5; where q is zero, a third."""
    attention = pack("attention")
    recorder = attention.Recorder((1,))
    model = recorder.put_on(Model())
    q, k, v = torch.zeros(2, 12, 8), torch.zeros(2, 3, 8), torch.randn(2, 3, 8, generator=torch.Generator())
    q[1, 0] = 1.0  # the prompt's half is the second; its first pixel looks at slot 1
    k[1, 1] = math.log(3) / 2
    out = model.patches["input", 4](q, k, v, options(2.0, [1, 0]))
    again = sys.modules["comfy.ldm.modules.attention"].optimized_attention(q, k, v, 2)
    assert torch.equal(out, again)
    shares = recorder._sums[3, 4]
    assert shares.shape == (1, 3, 4)
    assert torch.allclose(shares[0, 0, 0], torch.tensor(3 / 5)) and torch.allclose(shares[0, 1:], torch.tensor(1 / 3))
    model.patches["output", 4](q, k, v, options(1.0, [1, 0]))
    assert recorder._counts[3, 4] == 2
    heat = recorder.heat(6, 8)
    assert heat.shape == (1, 6, 8) and float(heat.min()) == 0 and float(heat.max()) == 1
    model.patches["output", 4](q, k, v, options(2.0, [0, 1]))  # more noise: another sampling
    assert recorder._counts[3, 4] == 1


def test_another_pack_s_replacement_goes_on_working(comfy: Comfy) -> None:
    seen: list[str] = []

    def before(q: Tensor, k: Tensor, v: Tensor, extra: Any) -> Tensor:
        seen.append("before")
        return q

    model = pack("attention").Recorder((1,)).put_on(Model({("middle", 0): before}))
    q = torch.zeros(1, 12, 8)
    assert model.patches["middle", 0](q, torch.zeros(1, 3, 8), q, options(1.0, [0])) is q and seen == ["before"]


def test_apply_puts_lora_and_embedding_on_and_attention_says_where_nothing_was_sampled(comfy: Comfy) -> None:
    put(comfy.root / "loras", "mexyz_lora", own(("mexyz", "mexyz", "face")))
    put(comfy.root / "embeddings", "mexyz", own(("mexyz", "mexyz", "face")))
    (concept,) = pack().NODE_CLASS_MAPPINGS["SingleInsertLoadConcept"]().load("mexyz")
    vector = torch.ones(768)
    clip = SimpleNamespace(
        tokenize=lambda text: {"l": [[(1, 1.0), (vector, 1.0), (7, 1.0)], [(1, 1.0), (2, 1.0), (vector, 1.0)]]},
        encode_from_tokens_scheduled=lambda tokens: [["states", {}]],
    )
    node = pack().NODE_CLASS_MAPPINGS["SingleInsertApplyConcept"]()
    model, clip_out, conditioning, text, recorder = node.apply(Model(), clip, concept, "{concept} in snow", 0.8, 0.5)
    assert comfy.loaded == [("mexyz_lora.safetensors", 0.8, 0.5)] and clip_out is clip
    assert text == "embedding:mexyz face in snow" and conditioning == [["states", {}]]
    assert recorder.slots == (1, 79) and len(model.patches) == 25
    node.apply(Model(), clip, concept, "{concept}", 0.0, 0.0)
    assert len(comfy.loaded) == 1
    show = pack().NODE_CLASS_MAPPINGS["SingleInsertConceptAttention"]().show
    with pytest.raises(pack("concepts").ConceptError, match="no attention was recorded"):
        show(recorder, torch.zeros(1, 8, 8, 3), 0.6)


def test_heat_is_painted_from_dark_to_bright(comfy: Comfy) -> None:
    paint = pack("attention").paint
    heat = torch.tensor([[[0.0, 0.5, 1.0]]])
    painted = paint(torch.full((1, 1, 3, 3), 0.5), heat, 1.0)
    lightness = painted.mean(-1)[0, 0]
    assert lightness[0] < lightness[1] < lightness[2]
    assert torch.equal(paint(torch.full((1, 1, 3, 3), 0.5), heat, 0.0), torch.full((1, 1, 3, 3), 0.5))


def picture(side: int = 16) -> Tensor:
    return torch.rand(1, side, side, 3, generator=torch.Generator().manual_seed(1))


def request(**more: Any) -> dict[str, Any]:
    given = {"image": picture(), "name": "mexyz", "class_word": "face", "preset": "mini", "base_model": "the preset's",
             "stage1_steps": 3, "stage2_steps": 3, "seed": 0}  # fmt: skip
    return given | more


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SINGLEINSERT_QUEUE", str(tmp_path / "work"))
    monkeypatch.delenv("SINGLEINSERT_PYTHON", raising=False)
    return tmp_path / "work"


def write_events(queue: Path, *events: dict[str, Any], folder: str = "mexyz") -> None:
    logs = queue / folder / "logs" / "mexyz"
    logs.mkdir(parents=True, exist_ok=True)
    with (logs / "events.jsonl").open("a") as file:
        file.writelines(json.dumps(event) + "\n" for event in events)


def clock(sleep: Callable[[float], object]) -> Any:
    """The time module with a sleep of its own, for one module alone: threads of other tests may sleep meanwhile."""
    return SimpleNamespace(**{**vars(time), "sleep": sleep})


def test_training_hands_a_job_over_shows_it_and_is_cached_by_its_inputs(
    comfy: Comfy, queue: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The other side is played by what happens while the node sleeps."""
    train, sleeps = pack("train"), []
    picture_file = tmp_path / "sample.png"
    picture_file.write_bytes(train.png_of(picture()))

    def work(_: float) -> None:
        sleeps.append(1)
        if len(sleeps) == 1:
            write_events(queue, {"event": "begun", "stages": {"stage1": 3, "stage2": 3}},
                         {"event": "step", "stage": "stage1", "step": 2}, folder=".batch/work/mexyz.001")  # fmt: skip
        elif len(sleeps) == 2:
            write_events(queue, {"event": "step", "stage": "stage2", "step": 3},
                         {"event": "samples", "stage": "stage2", "step": 3, "files": [str(picture_file)]},
                         {"event": "done"}, folder=".batch/work/mexyz.001")  # fmt: skip
        elif len(sleeps) == 3:  # what it has learnt is exported after that, and the folder moved
            (queue / ".batch" / "work" / "mexyz.001").rename(queue / "mexyz")
            put(queue / "mexyz", "mexyz", own(("mexyz", "mexyz", "face")))
            put(queue / "mexyz", "mexyz_lora", own(("mexyz", "mexyz", "face")))
            put(queue / "mexyz", "mexyz_artifact", own(("mexyz", "mexyz", "face")))

    monkeypatch.setattr(train, "time", clock(work))
    node = train.TrainConcept()
    mask = torch.zeros(1, 16, 16)
    mask[:, 4:12, 4:12] = 1
    concept, name = node.train(**request(mask=mask))
    assert name == concept.name == "mexyz" and concept.lora == "mexyz_lora.safetensors" and comfy.freed == 1
    assert comfy.files("embeddings") == ["mexyz.safetensors"] and comfy.files("loras") == ["mexyz_lora.safetensors"]
    assert comfy.progress == [(2, 6, False), (6, 6, False), (6, 6, True)]
    node.train(**request(mask=mask))
    assert len(sleeps) == 3 and comfy.freed == 1, "the same inputs are not trained again"
    with pytest.raises(pack("concepts").ConceptError, match="was trained from another picture or with other settings"):
        node.train(**request(mask=mask, seed=1))


def test_files_that_do_not_come_are_said(comfy: Comfy, queue: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = pack("train")
    monkeypatch.setattr(train, "SETTLE", 0)
    monkeypatch.setattr(train, "time", clock(lambda _: write_events(queue, {"event": "done"})))
    with pytest.raises(pack("concepts").ConceptError, match="is trained, but its files did not come to"):
        train.TrainConcept().train(**request())


def test_the_job_is_one_that_the_batch_reads(comfy: Comfy, queue: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read by the project itself: photo and mask, preset, steps and class arrive as given."""
    from singleinsert.batch.jobs import read_jobs

    mask = torch.ones(1, 16, 16)

    def cancel(_: float) -> None:
        comfy.cancelled = True

    kept: dict[str, str] = {}
    monkeypatch.setattr(pack("train"), "time", clock(cancel))
    monkeypatch.setattr(pack("job").Job, "stop", lambda self: kept.update(job=self.file.read_text()))
    with pytest.raises(Interrupted):
        pack("train").TrainConcept().train(**request(mask=mask, class_word='the "best" face', stage1_steps=4))
    jobs, problems = read_jobs(queue / "queue" / "mexyz.toml", queue)
    assert problems == [] and [job.name for job in jobs] == ["mexyz"]
    settings = jobs[0].settings
    assert settings.data.class_word == ('the "best" face',) and settings.stage1.steps == 4 and jobs[0].preset == "mini"
    assert all(Path(p).exists() for p in (*settings.data.image, *settings.data.mask))


def test_cancel_stops_the_run_and_takes_back_what_nobody_began(
    comfy: Comfy, queue: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cancel(_: float) -> None:
        comfy.cancelled = True

    monkeypatch.setattr(pack("train"), "time", clock(cancel))
    with pytest.raises(Interrupted):
        pack("train").TrainConcept().train(**request())
    assert not (queue / "queue" / "mexyz.toml").exists() and not (queue / "mexyz").exists()
    for attempt in ("001", "002", "002.inputs"):
        write_events(queue, {"event": "begun", "stages": {"stage1": 3}}, folder=f".batch/work/mexyz.{attempt}")
    with pytest.raises(Interrupted):
        pack("train").TrainConcept().train(**request())
    asked = [str(path.relative_to(queue)) for path in queue.rglob("stop")]
    assert asked == [".batch/work/mexyz.002/logs/mexyz/stop"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"name": "my face"}, "name 'my face': use letters"),
        ({"name": "../up"}, r"name '\.\./up': use letters"),
        ({"class_word": " "}, "class_word is empty"),
        ({"mask": torch.zeros(1, 16, 16)}, "the mask is empty"),
        ({"mask": torch.ones(1, 8, 16)}, "the mask is 16 x 8, the picture 16 x 16"),
    ],
)
def test_bad_input_is_one_line(comfy: Comfy, queue: Path, more: dict[str, Any], message: str) -> None:
    with pytest.raises(pack("concepts").ConceptError, match=message) as caught:
        pack("train").TrainConcept().train(**request(**more))
    assert "\n" not in str(caught.value) and not (queue / "queue").exists()


def test_a_failure_says_its_reason_and_a_worker_that_cannot_begin_too(
    comfy: Comfy, queue: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error, node = pack("concepts").ConceptError, pack("train").TrainConcept()
    monkeypatch.setattr(
        pack("train"),
        "time",
        clock(lambda _: write_events(queue, {"event": "failed", "reason": "out of memory"})),
    )
    with pytest.raises(error, match="the training of mexyz failed: out of memory"):
        node.train(**request())
    monkeypatch.undo()
    monkeypatch.setenv("SINGLEINSERT_QUEUE", str(queue / "other"))
    monkeypatch.setenv("SINGLEINSERT_PYTHON", "/nowhere/python")
    with pytest.raises(error, match="is no program"):
        node.train(**request())


def test_without_an_installation_the_line_says_what_to_write(comfy: Comfy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SINGLEINSERT_QUEUE", raising=False)
    with pytest.raises(pack("concepts").ConceptError, match=r"where is SingleInsert\? Write into .*singleinsert.toml"):
        pack("train").TrainConcept().train(**request())


def test_a_checkouts_own_environment_finds_the_package(comfy: Comfy, tmp_path: Path) -> None:
    python = tmp_path / "SingleInsert" / ".venv" / "bin" / "python"
    job = pack("job")
    assert job.Installation(tmp_path / "work", str(python)).home == tmp_path / "work"
    (tmp_path / "SingleInsert" / "singleinsert").mkdir(parents=True)
    (tmp_path / "SingleInsert" / "singleinsert" / "__init__.py").touch()
    assert job.Installation(tmp_path / "work", str(python)).home == tmp_path / "SingleInsert"


def test_a_file_of_another_origin_is_not_replaced(comfy: Comfy, queue: Path) -> None:
    job = pack("job")
    mine = job.Job(job.Installation(queue), job.Request("mexyz", "mini", "face", {"mexyz.png": b"1"}))
    put(queue / "mexyz", "mexyz", own(("mexyz", "mexyz", "face")))
    write_events(queue, {"event": "done"})
    put(comfy.root / "embeddings", "mexyz", None)
    with pytest.raises(pack("concepts").ConceptError, match="is not SingleInsert's: move it away"):
        mine.fetch(comfy.root / "embeddings", comfy.root / "loras")


def test_the_example_workflow_fits_the_nodes(comfy: Comfy) -> None:
    """Every link joins slots of one type, and every node of this pack has the slots of its class, in its order."""
    graph = json.loads((PACK / "example_workflows" / "train_and_draw.json").read_text())
    nodes = {node["id"]: node for node in graph["nodes"]}
    for _, start, out, end, into, kind in graph["links"]:
        assert nodes[start]["outputs"][out]["type"] == nodes[end]["inputs"][into]["type"] == kind
    ours = {node["type"]: node for node in graph["nodes"] if node["type"] in pack().NODE_CLASS_MAPPINGS}
    assert len(ours) == 3
    for name, node in ours.items():
        cls = pack().NODE_CLASS_MAPPINGS[name]
        assert [(o["name"], o["type"]) for o in node["outputs"]] == list(
            zip(cls.RETURN_NAMES, cls.RETURN_TYPES, strict=True)
        )
        inputs = cls.INPUT_TYPES()
        types = {n: t[0] for part in inputs.values() for n, t in part.items()}
        wired = [i["name"] for i in node["inputs"]]
        assert all(types[i["name"]] == i["type"] for i in node["inputs"])
        assert wired == [n for n in types if n in wired]


def test_the_registrys_metadata_are_as_it_documents_them() -> None:
    """docs.comfy.org/registry/specifications: the name's rules, three numbers of a version, a licence as a table."""
    told = tomllib.loads((PACK / "pyproject.toml").read_text(encoding="utf-8"))
    project, comfy = told["project"], told["tool"]["comfy"]
    assert re.fullmatch(r"[A-Za-z]([._-]?[A-Za-z0-9])*", project["name"]) and len(project["name"]) < 100
    assert "comfyui" not in project["name"].lower() and re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert project["license"] == {"text": "Apache-2.0"} and project["dependencies"] == []
    assert comfy["PublisherId"] and re.fullmatch(r">=\d+\.\d+\.\d+", comfy["requires-comfyui"])
    assert set(comfy) <= {"PublisherId", "DisplayName", "Icon", "Banner", "requires-comfyui", "includes"}
