"""From a photo to a zip, as the page asks for it, without a browser: drafts, masks, jobs, runs, pictures, clients."""

import io
import json
import os
import shutil
import time
import tomllib
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest
from pages import served
from PIL import Image, ImageDraw
from runs import SMALL, draw_subject

from singleinsert.batch.__main__ import main as batch
from singleinsert.terms import BUNDLED_MODELS
from singleinsert.training.events import EventLog
from singleinsert.ui.bases import known_bases, source_of
from singleinsert.ui.fixes import fixes_for
from singleinsert.ui.getting import CLIENTS, EMBEDDED, exported
from singleinsert.ui.runs import Run

QUICK = {key: value for key, value in SMALL.items() if not key.startswith("data.class")} | {
    "sample.prompts": ["{concept}", "{concept} in the snow"], "stage1.steps": 2, "stage2.steps": 2,
    "stage1.batch_size": 2, "stage2.batch_size": 2,
}  # fmt: skip


def png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def page(tmp_path_factory, tiny_sd):
    """A served folder, with the tiny model in a folder of models."""
    models = tmp_path_factory.mktemp("models")
    shutil.copytree(tiny_sd, models / "tiny")
    with served(tmp_path_factory.mktemp("place"), models=[models]) as page:
        yield page


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    return draw_subject(tmp_path_factory.mktemp("photo"))


def make_draft(page, photo, name, **settings):
    """A draft that is ready to start."""
    status, made = page.ask("POST", "drafts", photo[0].read_bytes())
    assert status == 200
    at = f"drafts/{made['id']}"
    status, mask = page.ask("PUT", f"{at}/mask/0", photo[1].read_bytes())
    assert (status, mask["level"]) == (200, "good") and mask["share"] == pytest.approx(0.256, abs=1e-3)
    change = {"subjects": [{"class_word": "face"}], "name": name, "base": "folder0:tiny", "settings": QUICK | settings}
    status, draft = page.ask("PUT", at, change)
    assert status == 200, draft
    return at


@pytest.fixture(scope="module")
def trained(page, photo):
    """A run that was started on the page and done by a worker."""
    at = make_draft(page, photo, "annaxy")
    assert page.post(f"{at}/start") == {"name": "annaxy"}
    assert page.get("runs/annaxy?after=0")["state"] == "queued"
    assert batch([str(page.place.folder), "--watch", "0"]) == 0
    return "annaxy"


def test_a_draft_is_judged_while_it_is_made(page, photo):
    at = make_draft(page, photo, "zoexy")
    draft = page.get(at)
    assert draft["subjects"][0]["square"] == [8, 0, 72, 64] and not draft["judged"]["problem"]
    judged = page.post("name", {"name": "cat", "class_word": "cat"})
    assert "word of CLIP" in judged["note"] and judged["suggestion"] == "catxy" and not judged["problem"]
    assert page.post("name", {"name": "a b", "class_word": ""})["suggestion"] == "a_bxy"
    assert "one called Queue" in page.post("name", {"name": "Queue"})["problem"]
    form = page.get(f"{at}/form")
    keys = {field["key"]: field for field in form["fields"]}
    assert keys["stage1.steps"]["value"] == 50 and form["changed"]["stage1.steps"] == 2
    assert keys["stage1.loss_space"]["choices"] == ["x0", "epsilon", "v"] and "data.image" not in keys
    assert "--set stage1.steps=2" in form["command"] and form["preset"] == "face"
    (job,) = tomllib.loads(form["toml"])["job"]
    assert job["stage1"]["steps"] == 2 and job["name"] == "zoexy"
    text = form["toml"].replace("stage1.steps = 2", "stage1.steps = 7")
    status, form = page.ask("PUT", f"{at}/toml", {"toml": text})
    assert status == 200 and form["changed"]["stage1.steps"] == 7 and form["changed"]["stage2.steps"] == 2
    for wrong in ("[[job]]\nstage1.stepps = 3", "[[job]", "[[job]]\n[[job]]\n", "[[job]]\nrun.output_dir = 'x'"):
        assert page.ask("PUT", f"{at}/toml", {"toml": wrong})[0] == 422
    look = page.get(f"{at}/check")
    assert look["problems"] == [] and look["base_model"]["state"] == "here" and look["steps"]["stage1"] == 7
    page.ask("PUT", f"{at}/mask/0", png(Image.new("L", (80, 64), 0)))
    assert "is empty" in page.get(f"{at}/check")["problems"][0]
    assert page.ask("PUT", at, {"quality": "quick", "memory": "6 GB"})[1]["quality"] == "quick"
    page.ask("DELETE", at)
    assert page.ask("GET", at)[0] == 404


def test_a_mask_is_found_by_points_and_the_description_is_checked(page, photo):
    at = make_draft(page, photo, "zoexy")
    status, found = page.ask("POST", f"{at}/find/0", {"points": [[40, 30, 1], [5, 5, 0]], "box": [15, 5, 65, 55]})
    assert status == 200 and not found["certain"] and "grabcut" in found["source"].lower()
    status, said = page.ask("POST", f"{at}/find/0", {})
    assert status == 422 and "\n" not in said["error"]  # nothing here looks for a word
    status, checked = page.ask("POST", f"{at}/caption", {"text": "a photo of a {concept}, wearing a red hat"})
    assert status == 200 and [phrase["text"] for phrase in checked["phrases"]] == ["wearing a red hat"]
    assert page.ask("PUT", f"{at}/caption", {"text": checked["text"]})[0] == 200
    assert page.get(at)["caption"] == checked["text"]
    page.ask("DELETE", at)


def test_what_is_missing_is_said_and_the_draft_stays(page, photo):
    at = make_draft(page, photo, "zoexy")
    for change, word in (
        ({"subjects": [{}]}, "say what it is"),
        ({"name": ""}, "the name"),
        ({"name": "inputs"}, "the name"),
    ):
        page.ask("PUT", at, change)
        status, said = page.ask("POST", f"{at}/start", {})
        assert status == 422 and word in said["error"]
        page.ask("PUT", at, {"subjects": [{"class_word": "face"}], "name": "zoexy"})
    assert page.get(at)["name"] == "zoexy" and not (page.place.folder / "inputs" / "zoexy").exists()
    page.ask("DELETE", at)


def test_a_run_is_shown_from_its_files(page, trained):
    run = page.get(f"runs/{trained}?after=0")
    assert (
        run["state"] == "done" and run["class_word"] == "face" and run["mask_share"] == pytest.approx(0.256, abs=1e-3)
    )
    steps = [(e["stage"], e["step"]) for e in run["events"] if e["event"] == "step"]
    assert steps == [("stage1", 1), ("stage1", 2), ("stage2", 1), ("stage2", 2)]
    samples = {(e["stage"], e["step"]): e["files"] for e in run["events"] if e["event"] == "samples"}
    assert set(samples) == {("before", 0), ("stage1", 2), ("stage2", 2)}
    for files in samples.values():
        with Image.open(io.BytesIO(page.get(f"runs/{trained}/file/{files[0]}"))) as image:
            assert image.size == (32, 32)
    later = page.get(f"runs/{trained}?after={run['next']}")
    assert later["events"] == [] and later["next"] == run["next"]
    assert page.get(f"runs/{trained}/settings")["stage1.steps"] == 2
    assert page.ask("GET", f"runs/{trained}/file/{trained}_config.toml")[0] == 200
    for name in ("events.jsonl", "draft.json", "nothing.png", ".annaxy.png"):
        assert page.ask("GET", f"runs/{trained}/file/{name}")[0] in (404, 422)
    (card,) = [card for card in page.get("concepts")["concepts"] if card["name"] == trained]
    assert card["preview"] == f"{trained}.preview.png" and page.get("state")["counts"]["done"] >= 1
    assert page.ask("POST", f"runs/{trained}/ask/stop", {})[0] == 422  # it does not run
    assert page.ask("POST", f"runs/{trained}/resume", {})[0] == 422


def test_files_are_got_for_each_client(page, trained, tmp_path):
    told = page.get(f"runs/{trained}/get")
    assert [client["key"] for client in told["clients"]] == ["a1111", "comfyui", "diffusers", "all"]
    assert told["clients"][0]["prompt"] == "annaxy face on the beach <lora:annaxy_lora:1>"
    with zipfile.ZipFile(io.BytesIO(page.get(f"runs/{trained}/zip/a1111"))) as file:
        names = file.namelist()
        assert file.testzip() is None and b"annaxy face" in file.read("annaxy.txt")
    comfyui = told["clients"][1]
    assert comfyui["prompt"] == "embedding:annaxy face on the beach"  # what is copied is a prompt, and nothing else
    assert comfyui["besides"] == "with a Load LoRA node for annaxy_lora, strength 1 for model and clip"
    with zipfile.ZipFile(io.BytesIO(page.get(f"runs/{trained}/zip/comfyui"))) as file:
        assert comfyui["besides"].encode() in file.read("annaxy.txt")
    assert {"embeddings/annaxy.safetensors", "models/Lora/annaxy_lora.safetensors", "embeddings/annaxy.json"} <= set(
        names
    )
    with zipfile.ZipFile(io.BytesIO(page.get(f"runs/{trained}/zip/all"))) as file:
        assert "annaxy_artifact.safetensors" in file.namelist()
    assert page.ask("GET", f"runs/{trained}/zip/nothing")[0] == 404

    client = tmp_path / "webui"
    (client / "models" / "Lora").mkdir(parents=True)
    assert page.ask("POST", f"runs/{trained}/copy", {"folder": str(client)})[0] == 422  # nobody has named it
    page.place.clients = [client]
    assert page.get(f"runs/{trained}/get")["clients"][0]["folders"] == [str(client)]
    page.post(f"runs/{trained}/copy", {"folder": str(client)})
    assert (client / "models/Lora/annaxy_lora.safetensors").is_file()
    (client / "embeddings/annaxy.safetensors").write_bytes(b"another's")
    status, said = page.ask("POST", f"runs/{trained}/copy", {"folder": str(client)})
    assert status == 422 and "another file" in said["error"]


def test_pictures_are_drawn_by_a_worker(page, trained):
    wish = {"concepts": [trained], "prompt": "{concept} in the snow", "seeds": [0, 3], "strengths": [0.5, 1.0],
            "base": True, "attention": True, "steps": 2, "guidance_scale": 3.0}  # fmt: skip
    asked = page.post("pictures", wish)["id"]
    assert page.get(f"pictures/{asked}")["state"] == "queued" and page.place.has_requests()
    batch([str(page.place.folder), "--watch", "0"])
    told = page.get(f"pictures/{asked}")
    assert told["state"] == "done", told
    assert told["files"] == [f"{i:02d}.png" for i in range(6)] and set(told["maps"]["02"]) >= {"face"}
    drawn = [page.get(f"pictures/{asked}/{file}") for file in told["files"]]
    assert len(set(drawn)) == 6  # the base model's, and each strength's, of both seeds
    assert (
        page.get(f"pictures/{asked}/02_map0.png")[:4] == b"\x89PNG"
        and page.ask("GET", f"pictures/{asked}/99.png")[0] == 404
    )
    wrong = page.post("pictures", wish | {"prompt": "{nobody}"})["id"]
    batch([str(page.place.folder), "--watch", "0"])
    told = page.get(f"pictures/{wrong}")
    assert told["state"] == "failed" and "nobody" in told["reason"]


def test_a_photo_is_edited_and_a_concept_looked_at(page, trained, photo):
    at = make_draft(page, photo, "edited")
    draft = at.partition("/")[2]
    asked = page.post("edits", {"draft": draft, "concepts": [trained], "prompt": "{concept}", "seeds": [0], "steps": 4,
                                "strength": 0.8})["id"]  # fmt: skip
    look = page.post("pictures", {"concepts": [trained], "prompt": "check", "seeds": [0, 1], "check": True})["id"]
    batch([str(page.place.folder), "--watch", "0"])
    told = page.get(f"pictures/{asked}")
    assert told["state"] == "done" and told["files"] == ["00.png"] and "edit" not in told["wish"]
    with Image.open(io.BytesIO(page.get(f"pictures/{asked}/00.png"))) as after, Image.open(photo[0]) as before:
        assert after.size == before.size and after.getpixel((2, 2))[:3] == before.getpixel(
            (2, 2)
        )  # outside of the mask
    told = page.get(f"pictures/{look}")
    assert told["state"] == "done" and "comes back" in told["reason"] and told["files"] == ["00.png"]
    assert str(page.place.folder) not in told["reason"]
    page.ask("DELETE", at)


def test_a_run_is_trained_again_changed_and_compared(page, trained):
    slower = page.post(f"runs/{trained}/again", {"fix": "rates"})["name"]
    rate = page.get(f"runs/{trained}/settings")["stage1.learning_rate"]
    assert page.get(f"runs/{slower}/settings")["stage1.learning_rate"] == pytest.approx(rate / 3)
    draft = page.post(f"runs/{trained}/again", {"draft": True})["draft"]
    told = page.get(f"drafts/{draft}")
    assert told["settings"]["stage1.steps"] == 2 and told["subjects"][0]["mask"] and told["base"] == "folder0:tiny"
    fewer = page.post(f"runs/{trained}/again", {"settings": {"stage2.steps": 1}})["name"]  # as the check advises
    assert page.get(f"runs/{fewer}/settings")["stage2.steps"] == 1
    assert page.ask("POST", f"runs/{trained}/again", {"settings": {"run.output_dir": "/"}})[0] == 422
    assert page.ask("DELETE", f"runs/{fewer}")[0] == 200
    compared = page.get(f"compare?a={trained}&b={slower}")
    assert {row["key"] for row in compared["settings"]} == {"stage1.learning_rate", "stage2.learning_rate"}
    page.post("queue/pause")
    assert page.get("queue")["paused"] and page.get("state")["paused"]
    assert [job["name"] for job in page.get("queue")["jobs"]][-1] == slower
    page.post("queue/first", {"name": slower})
    assert page.get("queue")["jobs"][0]["name"] == slower
    page.post("queue/go")
    assert page.ask("DELETE", f"runs/{slower}")[0] == 200
    assert page.ask("GET", f"runs/{slower}")[0] == 404
    page.ask("DELETE", f"drafts/{draft}")
    assert not (page.place.folder / "inputs" / slower).exists()


def test_a_run_goes_on_longer_from_where_it_ended(page, photo, monkeypatch):
    monkeypatch.setattr("singleinsert.ui.running.LONGER", 1)
    page.post(f"{make_draft(page, photo, 'shortxy')}/start")
    batch([str(page.place.folder), "--watch", "0"])
    before = page.get("runs/shortxy?after=0")
    assert before["state_bytes"] > 1000 and not before["ended_early"]
    name = page.post("runs/shortxy/again", {"longer": True})["name"]
    assert page.get(f"runs/{name}/settings")["stage2.steps"] == 3
    batch([str(page.place.folder), "--watch", "0"])
    run = page.get(f"runs/{name}?after=0")
    assert run["state"] == "done" and run["done_steps"] == run["steps"] == 5
    drawn = [(e["stage"], e["step"]) for e in run["events"] if e["event"] == "samples"]
    assert drawn == [("before", 0), ("stage1", 2), ("stage2", 2), ("stage2", 3)]
    timed = [(e["stage"], e["step"]) for e in run["events"] if e["event"] == "step" and "seconds" in e]
    assert timed == [("stage2", 3)]  # the others are the old run's
    assert {row["key"] for row in page.get(f"compare?a=shortxy&b={name}")["settings"]} == {"stage2.steps"}
    assert page.ask("DELETE", "runs/shortxy/state")[0] == 200 and page.ask("DELETE", "runs/shortxy/state")[0] == 422
    anew = page.post("runs/shortxy/again", {"longer": True})["name"]
    assert not page.get(f"runs/{anew}/settings")["run.resume_from_checkpoint"]
    for each in ("shortxy", name, anew):
        assert page.ask("DELETE", f"runs/{each}")[0] == 200


def test_a_failed_run_says_why_and_what_mends_it(page, photo):
    at = make_draft(page, photo, "badxy", **{"stage1.learning_rate": 10.0, "stage1.steps": 40})
    page.ask("PUT", at, {"subjects": [{"class_word": "face"}]})
    page.post(f"{at}/start")
    (page.place.folder / "inputs" / "badxy" / "badxy_mask.png").write_bytes(png(Image.new("L", (80, 64), 0)))
    batch([str(page.place.folder), "--watch", "0"])
    run = page.get("runs/badxy?after=0")
    assert run["state"] == "failed" and "is empty" in run["reason"] and "\n" not in run["reason"]
    assert [fix["id"] for fix in run["fixes"]] == ["mask", "again", "change"]
    assert page.get("queue")["jobs"][-1]["state"] == "failed"
    batch([str(page.place.folder), "--watch", "0"])  # nothing is tried again by itself
    assert page.place.states()["badxy"].attempt == 1
    page.post("runs/badxy/resume")
    assert page.get("runs/badxy?after=0")["state"] == "queued"
    assert page.ask("DELETE", "runs/badxy")[0] == 200


@pytest.mark.parametrize(("reason", "memory", "first"), [
    ("the loss is nan at stage1 step 3: lower ...", False, "rates"), ("CUDA ran out", True, "memory"),
    ("no face was found in x.png", False, "mask"), ("no model folder x", False, "base"),
    ("something else", False, "again"),
])  # fmt: skip
def test_fixes(reason, memory, first):
    found = fixes_for("failed", reason, memory)
    assert found[0]["id"] == first and found[-1]["id"] == "change"
    assert [fix["label"] for fix in fixes_for("stopped", reason, memory)] == ["Go on", "Change its settings"]
    assert fixes_for("running", reason, memory) == []


def test_several_things_of_a_photo(page, photo):
    at = make_draft(page, photo, "kitchxy")
    draft = page.post(f"drafts/{at.partition('/')[2]}/subjects/add")
    assert draft["is_scene"] and len(draft["subjects"]) == 2
    page.ask("PUT", at, {"subjects": [{"class_word": "face", "name": "ann"}, {"class_word": "mug", "name": "cup"}]})
    status, said = page.ask("POST", f"{at}/start", {})
    assert status == 422 and "needs a mask" in said["error"]
    second = Image.new("L", (80, 64), 0)
    ImageDraw.Draw(second).rectangle([50, 40, 75, 60], fill=255)
    page.ask("PUT", f"{at}/mask/1", png(second))
    told = page.get(at)
    assert told["subjects"][1]["level"] == "good" and "ann and cup overlap" in told["overlaps"][0]
    form = page.get(f"{at}/form")
    assert form["preset"] == "scene"
    page.post(f"{at}/start")
    (job,) = [job for job in page.place.jobs()[0] if job.name == "kitchxy"]
    assert job.settings.data.class_word == ("face", "mug") and job.settings.data.handles == ("ann", "cup")
    assert len(job.settings.data.mask) == 2 and all(os.path.isfile(path) for path in job.settings.data.mask)
    assert page.get("runs/kitchxy?after=0")["things"] == ["ann", "cup"]
    page.ask("DELETE", "runs/kitchxy")


def test_the_prompt_for_clients_gives_each_thing_its_own_class_word(tmp_path):
    """The files' order is not that of the class words, and the background beside them is no subject."""
    for handle, word in (("background", "background"), ("ann", "mug"), ("bob", "face")):
        (tmp_path / f"kitchxy{handle}.safetensors").touch()
        (tmp_path / f"kitchxy{handle}.json").write_text(json.dumps({"activation text": f"kitchxy{handle} {word}"}))
    files = exported(Run("kitchxy", tmp_path, None, None, None))
    assert files.prompt(CLIENTS[2], "") == "kitchxyann mug and kitchxybob face on the beach"
    assert files.things(EMBEDDED) == "embedding:kitchxyann mug and embedding:kitchxybob face"


def test_runs_of_the_command_line_are_shown_too(page):
    """One that trains, and one whose process is gone."""
    folder = page.place.folder / "clixy"
    folder.mkdir()
    model = 'pretrained_model_name_or_path = "/models/some.safetensors"'
    (folder / "clixy_config.toml").write_text(f'[data]\nclass_word = ["cat"]\n[model]\n{model}\n')
    log = EventLog(folder / "logs" / "clixy")
    log.begin({"stage1": 4}, costs={"stage1": 1.0})
    log.step("stage1", 1, 4, {"loss": 1.0})
    run = page.get("runs/clixy?after=0")
    assert (run["state"], run["done_steps"], run["steps"], run["base"]) == ("running", 1, 4, "some.safetensors")
    page.post("runs/clixy/ask/stop")
    assert (folder / "logs/clixy/stop").exists()
    path = folder / "logs/clixy/events.jsonl"
    lines = [json.loads(line) | {"time": time.time() - 999} for line in path.read_text().splitlines()]
    path.unlink()
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert page.get("runs/clixy?after=0")["state"] == "interrupted"
    shutil.rmtree(folder)


IMAGE = {"filename": "x.png", "subfolder": "", "type": "output"}


def choice(node, name, value):
    return {node: {"input": {"required": {name: [[value]]}}}}


class StubComfy(BaseHTTPRequestHandler):
    """What of ComfyUI's interface is used."""

    asked: dict = {}  # noqa: RUF012

    def do_GET(self):
        answers = {
            "/object_info/CheckpointLoaderSimple": choice("CheckpointLoaderSimple", "ckpt_name", "sd.safetensors"),
            "/object_info/LoraLoader": choice("LoraLoader", "lora_name", "annaxy_lora.safetensors"),
            "/embeddings": ["annaxy"],
            "/history/7": {"7": {"outputs": {"8": {"images": [IMAGE]}}}},
        }  # fmt: skip
        body = json.dumps(answers[self.path]).encode() if self.path in answers else png(Image.new("RGB", (8, 8)))
        self.reply(body)

    def do_POST(self):
        StubComfy.asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["prompt"]
        self.reply(b'{"prompt_id": 7}')

    def reply(self, body):
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_a_running_comfyui_draws_with_the_files(page, trained):
    page.place.comfyui = "http://127.0.0.1:1"  # where nobody listens; at the usual port a real one may
    status, said = page.ask("GET", f"runs/{trained}/comfyui")
    assert status == 422 and "no ComfyUI answers" in said["error"]
    comfy = HTTPServer(("127.0.0.1", 0), StubComfy)
    Thread(target=comfy.serve_forever, daemon=True).start()
    try:
        page.place.comfyui = f"http://127.0.0.1:{comfy.server_port}"
        told = page.get(f"runs/{trained}/comfyui")
        assert told == {"checkpoints": ["sd.safetensors"], "lora": "annaxy_lora.safetensors", "ready": True}
        assert page.post(f"runs/{trained}/comfyui", {"checkpoint": "sd.safetensors"})[:4] == b"\x89PNG"
        graph = StubComfy.asked
        assert graph["3"]["inputs"]["text"] == "embedding:annaxy face" and graph["6"]["inputs"]["model"] == ["2", 0]
        assert page.ask("POST", f"runs/{trained}/comfyui", {"checkpoint": "../x"})[0] == 422
    finally:
        comfy.shutdown()
        comfy.server_close()


def test_base_models_are_those_on_offer(page):
    folders = page.place.models
    assert source_of("mini-sd", folders) == "mini-sd" and source_of("folder0:tiny", folders).endswith("tiny")
    assert source_of("owner/name", folders) == "owner/name"
    keys = [base["key"] for base in page.get("settings")["bases"]]
    assert keys == [*BUNDLED_MODELS, "folder0:tiny", "stable-diffusion-v1-5/stable-diffusion-v1-5"]


def test_files_beside_base_models_are_not_offered_as_such(tmp_path, page, trained):
    run = page.api.runs.get(trained)
    for path in (*exported(run).lora, *exported(run).embeddings):
        shutil.copy(path, tmp_path)
    (tmp_path / "short.safetensors").write_bytes(b"cut short")
    (tmp_path / "gone.safetensors").symlink_to(tmp_path / "nowhere")
    found = [(base.key, base.state) for base in known_bases([tmp_path]) if base.key.startswith("folder0:")]
    assert found == [(f"folder0:{name}.safetensors", "cannot be read") for name in ("gone", "short")]


def test_changes_that_come_together_are_all_kept(page, photo):
    """Screens send word, name and settings at once, from threads of the server each."""
    at = make_draft(page, photo, "manyxy")
    changes = [{"name": "otherxy"}, {"subjects": [{"class_word": "pet"}]}, {"quality": "long"}, {"memory": "6 GB"}]
    threads = [Thread(target=page.ask, args=("PUT", at, change)) for change in changes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    draft = page.get(at)
    assert (draft["name"], draft["quality"], draft["memory"]) == ("otherxy", "long", "6 GB")
    assert draft["subjects"][0]["class_word"] == "pet" and draft["subjects"][0]["source"] == "paint"
    page.ask("DELETE", at)
