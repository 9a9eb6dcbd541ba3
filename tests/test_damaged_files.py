"""Artifacts, LoRAs, embeddings, checkpoints and records of any content: a value, or one line that says what is wrong.

The files of ``data/cases`` were found by trying from outside. ``SINGLEINSERT_LONG_TESTS=1`` makes ten thousand changes
of each kind.
"""

import json
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file
from tinyconcepts import make_concept, make_scene
from tinymodels import hashed

from singleinsert.adapters.naming import is_lora
from singleinsert.artifact import Artifact
from singleinsert.batch.store import FolderStore
from singleinsert.errors import InputError, ModelError, SingleInsertError
from singleinsert.export import export
from singleinsert.interchange import load_pair
from singleinsert.locate import load_concept
from singleinsert.training.checkpoint import check_place, check_state, load_checkpoint, save_checkpoint

CASES = Path(__file__).parent / "data" / "cases"


def a_value_or_one_line(read, *arguments):
    """What ``read`` gives; None where it says in one line why it gives nothing. Anything else is a failure."""
    try:
        return read(*arguments)
    except SingleInsertError as error:
        assert str(error).strip() and "\n" not in str(error) and len(str(error)) < 1000
        return None


@pytest.fixture(scope="module")
def files(tiny_sd, tmp_path_factory):
    """A whole file of each kind."""
    folder = tmp_path_factory.mktemp("files")
    concept, scene = make_concept(tiny_sd, "zork"), make_scene(tiny_sd)
    concept.save(folder / "zork_artifact.safetensors")
    scene.save(folder / "kitchen_artifact.safetensors")
    export(concept, folder, formats=("webui", "bundle", "diffusers"))
    save_checkpoint(folder, 3, STATE)
    return folder


STATE = {
    "stage": 0, "step": 1, "parameters": {"concept.vectors": hashed((1, 4), 1)}, "scaler": None, "bank": None,
    "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
    "lr_scheduler": {"last_epoch": 1}, "losses": [{"stage": "stage1", "step": 1, "loss": 0.5}],
    "identity": {"stage1.steps": 3, "stage2.steps": 0},
}  # fmt: skip
NAMES = (
    "zork_artifact", "kitchen_artifact", "zork", "zork_lora", "zork_bundle", "step_000003",
    "zork_diffusers/pytorch_lora_weights",
)  # fmt: skip


def read(path: Path, files: Path):
    """By the reader that a user of the file would meet."""
    if path.name.startswith("step_"):
        state = load_checkpoint(path)
        check_state(path, state)
        check_place(path, state, {"stage1": 3})
        return state
    if "lora" in path.name:
        return load_pair(files / "zork.safetensors", path)
    return load_concept(path)


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_changed_bytes(name, files, data, tmp_path):
    """Cut, changed in a few bytes, or longer: whatever can be read is finite and of its shape."""
    content = bytearray((files / f"{name}.safetensors").read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, min(header + 64, len(content) - 1)))
        content[place] = data.draw(st.integers(0, 255))
    kind = data.draw(st.sampled_from(["as is", "cut", "longer"]))
    if kind == "cut":
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    if kind == "longer":
        content += data.draw(st.binary(min_size=1, max_size=16))
    path = tmp_path / f"{Path(name).name}.safetensors"
    path.write_bytes(bytes(content))
    found = a_value_or_one_line(read, path, files)
    if isinstance(found, Artifact):
        assert all(bool(torch.isfinite(t).all()) for c in found.concepts for t in c.embeddings.values())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def header_of(content: bytes) -> dict:
    return json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])


def with_header(content: bytes, header: dict) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + content[8 + int.from_bytes(content[:8], "little") :]


@pytest.mark.parametrize("name", NAMES)
@given(data=st.data())
def test_other_values_in_the_texts(name, files, data, tmp_path):
    """Any value of our JSON becomes any other."""
    content = (files / f"{name}.safetensors").read_bytes()
    header = header_of(content)
    key = data.draw(st.sampled_from(sorted(header["__metadata__"])))
    try:
        told = json.loads(header["__metadata__"][key])
    except ValueError:
        told = header["__metadata__"][key]
    place = told
    while isinstance(place, dict | list) and place:
        inner = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else list(range(len(place)))))
        if not isinstance(place[inner], dict | list) or not place[inner] or data.draw(st.booleans()):
            if data.draw(st.booleans()):
                place[inner] = data.draw(JSON)
            else:
                del place[inner]
            break
        place = place[inner]
    header["__metadata__"][key] = json.dumps(told)
    path = tmp_path / f"{Path(name).name}.safetensors"
    path.write_bytes(with_header(content, header))
    a_value_or_one_line(read, path, files)


KEYS = st.sampled_from(
    ["emb_params", "clip_l", "clip_g", "flora", "string_to_param.*", "bundle_emb.a.string_to_param.*", "bundle_emb.",
     "lora_unet_mid_block.lora_down.weight", "lora_unet_mid_block.lora_up.weight", "lora_unet_mid_block.alpha",
     "unet.a.lora_A.weight", "unet.a.lora_B.weight", "unet.a.alpha", "lora_te2_text_model_x.lora_up.weight",
     "text_encoder_2.a.lora_A.weight", "a.hada_w1_a", "embedding", ""]
)  # fmt: skip
SHAPES = st.lists(st.integers(0, 3), max_size=4).map(tuple)
DTYPES = st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.float8_e4m3fn])


@given(
    tensors=st.dictionaries(KEYS, st.tuples(SHAPES, DTYPES), max_size=5),
    header=st.dictionaries(
        st.sampled_from(["singleinsert", "lora_adapter_metadata", "ss_v2", "ss_base_model_version"]),
        JSON.map(json.dumps),
    ),
)
def test_tensors_of_any_name_shape_and_type(tensors, header, files, tmp_path):
    content = {key: torch.ones(shape).to(dtype) for key, (shape, dtype) in tensors.items()}
    path = tmp_path / "any.safetensors"
    path.write_bytes(save(content, header))
    a_value_or_one_line(load_concept, path)
    a_value_or_one_line(load_pair, files / "zork.safetensors", path)


@given(value=JSON)
def test_pickles_of_any_content(value, tmp_path):
    torch.save({"string_to_param": value, "x": torch.ones(2)}, tmp_path / "a.pt")
    a_value_or_one_line(lambda: load_concept(tmp_path / "a.pt", allow_pickle=True))
    (tmp_path / "b.pt").write_bytes(b"\x80\x02" + repr(value).encode())
    a_value_or_one_line(lambda: load_concept(tmp_path / "b.pt", allow_pickle=True))


@given(changes=st.dictionaries(st.sampled_from(sorted(STATE)), JSON, min_size=1, max_size=3))
def test_checkpoints_of_other_content(changes, tmp_path):
    """What is not built as a run's state is refused; an integer in its range may pass."""
    path = save_checkpoint(tmp_path, 3, STATE | changes)
    found = a_value_or_one_line(read, path, tmp_path)
    if found is not None:
        assert 0 <= found["stage"] < 1 and 0 <= found["step"] <= 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage": 7}, "stands at step 1 of stage 8"), ({"step": -1}, "stands at step -1"), ({"step": 4}, "at step 4"),
        ({"stage": "x"}, "its stage is 'x'"), ({"stage": True}, "its stage is True"), ({"more": 1}, "it holds"),
        ({"optimizer": None}, "no optimizer"), ({"losses": [3]}, "a row of its losses is 3"),
        ({"parameters": {"a": 3}}, "its parameter 'a' is no tensor"), ({"bank": 1}, "its bank is 1"),
        ({"parameters": {"a": torch.tensor([torch.nan])}}, "holds NaN"),
    ],
)  # fmt: skip
def test_a_checkpoint_is_not_believed(changes, message, tmp_path):
    path = save_checkpoint(tmp_path, 3, STATE | changes)
    with pytest.raises(ModelError, match=message) as raised:
        read(path, tmp_path)
    assert "\n" not in str(raised.value) and str(path) in str(raised.value)


def test_a_checkpoint_of_an_older_version_is_read(tmp_path):
    """It held a mean of weights, which nothing keeps any more."""
    state = read(save_checkpoint(tmp_path, 3, STATE | {"average": None}), tmp_path)
    assert state["step"] == read(save_checkpoint(tmp_path, 3, STATE), tmp_path)["step"]


@given(value=JSON)
def test_records_of_any_content(value, tmp_path):
    (tmp_path / "a").mkdir(exist_ok=True)
    (tmp_path / "a/a_job.json").write_text(json.dumps(value))
    a_value_or_one_line(FolderStore(tmp_path).record, "a")


@pytest.mark.parametrize("text", ["{}", "[]", '{"settings":{}}', '{"settings":1,"digest":1}', "[" * 5000, "", "\x00"])
def test_a_damaged_record_is_not_taken_for_a_job_to_do(text, tmp_path):
    assert FolderStore(tmp_path).record("a") is None  # not there
    (tmp_path / "a").mkdir()
    (tmp_path / "a/a_job.json").write_text(text)
    with pytest.raises(InputError, match="a_job.json is damaged .*: delete its folder"):
        FolderStore(tmp_path).record("a")


@pytest.mark.parametrize("path", sorted(CASES.iterdir()), ids=lambda path: path.name)
def test_found_by_trying(path, files):
    wanted = {
        "lora-alpha-of-two": "its alpha is no number", "lora-scalar-down": "is no LoRA of a layer",
        "lora-one-dimension": "is no LoRA of a layer", "lora-alpha-text": "its alpha is no number",
        "artifact-numbers-for-names": "are not texts", "pickle-string-to-param": "is no textual embedding",
    }[path.stem]  # fmt: skip
    with pytest.raises(SingleInsertError, match=wanted) as raised:
        if path.stem.startswith("lora"):
            load_pair(files / "zork.safetensors", path)
        else:
            load_concept(path, allow_pickle=True)
    assert "\n" not in str(raised.value)


def test_a_damaged_lora_in_a_folder_is_not_left_out(files, tmp_path):
    """One byte short: without the check the concept would be drawn without its LoRA."""
    (tmp_path / "zork.safetensors").write_bytes((files / "zork.safetensors").read_bytes())
    (tmp_path / "zork_lora.safetensors").write_bytes((files / "zork_lora.safetensors").read_bytes()[:-1])
    for where in (tmp_path, tmp_path / "zork.safetensors"):
        with pytest.raises(ModelError, match=r"zork_lora.safetensors is not a readable safetensors file"):
            load_concept(where)


@pytest.mark.parametrize("alpha", [torch.nan, torch.inf, 1e30])
def test_an_alpha_that_no_picture_survives(alpha, files, tmp_path):
    tensors = load_file(files / "zork_lora.safetensors")
    key = next(key for key in tensors if key.endswith(".alpha"))
    save_file(tensors | {key: torch.tensor(alpha)}, tmp_path / "zork_lora.safetensors")
    with pytest.raises(ModelError, match="alpha is"):
        load_pair(files / "zork.safetensors", tmp_path / "zork_lora.safetensors")


def test_half_a_layer_is_damage(files, tmp_path):
    tensors = load_file(files / "zork_lora.safetensors")
    for part in ("lora_down", "lora_up"):
        key = next(key for key in tensors if part in key)
        save_file({k: t for k, t in tensors.items() if k != key}, tmp_path / "zork_lora.safetensors")
        with pytest.raises(ModelError, match="and no (down|up) weight"):
            load_pair(files / "zork.safetensors", tmp_path / "zork_lora.safetensors")


def test_a_concept_called_like_a_lora(tiny_sd, tmp_path):
    """Its key is "flora"; a LoRA's have a layer's name and a part's."""
    export(make_concept(tiny_sd, "flora"), tmp_path, formats=("webui", "diffusers"))
    for where in (tmp_path, tmp_path / "flora.safetensors", tmp_path / "flora_diffusers"):
        assert load_concept(where).name == "flora" and load_concept(where).lora
    assert not is_lora(["flora", "my_lora", "lora"]) and is_lora(["lora_unet_x.alpha"]) and is_lora(["a.hada_w1_a"])
