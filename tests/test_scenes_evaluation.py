"""The evaluation of scenes: prompts, rules of the measures worked out by hand, rows, and the command."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from evaluations import Colours, Halves
from PIL import Image
from runs import draw_subject

from singleinsert.config import Settings, load_settings
from singleinsert.config.load import toml_string
from singleinsert.data.subject import Frame, Handle, Subject, TrainingPicture
from singleinsert.evaluate.__main__ import main
from singleinsert.evaluate.methods import MethodSet, load_methods
from singleinsert.evaluate.prompt_lists import EditPrompt
from singleinsert.evaluate.protocol import Protocol
from singleinsert.evaluate.results import Results
from singleinsert.evaluate.scene_prompts import powerset_prompts, with_class_words, worded
from singleinsert.evaluate.scene_scoring import SceneScorer
from singleinsert.evaluate.study.answers import AnswerFile
from singleinsert.evaluate.study.page import Study
from singleinsert.evaluate.table import agreement, mixing_matrix, sizes, summarise
from singleinsert.losses import BreakAScene, FullImage, Views
from singleinsert.metrics.scenes import choose_segments, counts_right, leaks, margin, match
from singleinsert.metrics.segments import MaskFormer, Segment, panoptic_segments

CAT, CUP, OTHER = Handle("cat1", "cat", "<cat1>"), Handle("cup", "cup", "<cup>"), Handle("cat2", "cat", "<cat2>")
WORDS = {"cat1": "cat", "cup": "cup", "cat2": "cat"}


def test_every_format_with_every_subset():
    formats = [EditPrompt("a photo of {concept} in the snow", ()), EditPrompt("* at night", ())]
    found = powerset_prompts(formats, (CAT, CUP, OTHER), " and ")
    assert len(found) == 2 * (2**3 - 1) and len({p.text for p in found}) == len(found)
    assert found[0].text == "a photo of {cat1} in the snow" and found[1].text == "{cat1} at night"
    last = found[-2]
    assert last.handles == ("cat1", "cup", "cat2") and last.text == "a photo of {cat1} and {cup} and {cat2} in the snow"
    asked = worded(last.text, (CAT, CUP, OTHER), "a {placeholder} {class_word}")
    assert asked == "a photo of a <cat1> cat and a <cup> cup and a <cat2> cat in the snow"
    assert worded(last.text, (CAT, CUP, OTHER), "{placeholder}") == "a photo of <cat1> and <cup> and <cat2> in the snow"
    assert with_class_words("a {oven} and {cat1}", {"oven": "oven", "cat1": "cat"}) == "a an oven and a cat"


# the rules


def test_segments_are_given_out_so_that_the_sum_is_largest():
    """0.9 + 0.2 < 0.8 + 0.7, though 0.9 is the largest of all."""
    assert match(np.array([[0.9, 0.8], [0.7, 0.2]])) == [1, 0]
    assert match(np.array([[0.1], [0.6], [0.2]])) == [None, 0, None]
    solve = pytest.importorskip("scipy.optimize").linear_sum_assignment
    rng = np.random.default_rng(0)
    for _ in range(20):
        table = rng.random((4, 3))
        assert [(o, s) for o, s in enumerate(match(table)) if s is not None] == list(zip(*solve(-table), strict=True))


def segment(left: int, right: int, score: float = 0.9) -> Segment:
    mask = np.zeros((8, 8), np.float32)
    mask[:, left:right] = 1
    return Segment(mask, score)


def test_which_segment_is_which_concept():
    """The surest of a class; of a class with two concepts the surest two; None where there is none."""
    picture = Image.new("RGB", (8, 8))
    found = {"cat": [segment(0, 2, 0.9), segment(2, 4, 0.8), segment(4, 8, 0.7)], "cup": []}
    chosen = choose_segments(picture, found, ("cup", "cat2"), WORDS, None)
    assert chosen["cup"] is None and chosen["cat2"] is not None and chosen["cat2"][0, 1] == 1
    both = choose_segments(picture, found, ("cat1", "cat2"), WORDS, None)
    assert [int(np.flatnonzero(mask[0])[0]) for mask in both.values() if mask is not None] == [0, 2]


def test_counts_and_leaks():
    one, two = {"cat": [segment(0, 2)], "cup": []}, {"cat": [segment(0, 2), segment(2, 4)], "cup": []}
    assert counts_right(one, ("cat1",), WORDS) and counts_right(two, ("cat1", "cat2"), WORDS)
    assert not counts_right(two, ("cat1",), WORDS) and not counts_right(one, ("cat1", "cup"), WORDS)
    assert leaks(one, ("cat1",), WORDS) is False and leaks(two, ("cat1",), WORDS) is True  # the other cat
    assert leaks({"cup": [segment(0, 2)]}, ("cat1", "cat2"), WORDS) is True
    assert leaks(two, ("cat1", "cat2", "cup"), WORDS) is None  # nobody is left to leak
    assert margin({"cat1": 0.5, "cup": 0.2, "cat2": 0.75}, "cat1") == -0.25


def test_panoptic_segments_are_those_of_transformers():
    """Its own inference, on made-up outputs, of which some are no object, unsure, or covered by others."""
    from types import SimpleNamespace

    from transformers.models.maskformer.image_processing_pil_maskformer import MaskFormerImageProcessorPil

    generator = torch.Generator().manual_seed(8)
    classes = torch.randn(12, 5, generator=generator) * 6
    rough = torch.randn(1, 12, 8, 8, generator=generator) * 6 - 5
    masks = torch.nn.functional.interpolate(rough, size=(32, 32), mode="bilinear")[0]
    outputs = SimpleNamespace(class_queries_logits=classes[None], masks_queries_logits=masks[None])
    theirs = MaskFormerImageProcessorPil().post_process_panoptic_segmentation(
        outputs, threshold=0.8, target_sizes=[(32, 32)], label_ids_to_fuse=set()
    )[0]
    ours = panoptic_segments(classes, masks)
    assert len(ours) == len(theirs["segments_info"]) < 7  # queries that are sure of an object
    for (cls, found), info in zip(ours, theirs["segments_info"], strict=True):
        assert cls == info["label_id"] and found.score == pytest.approx(info["score"], abs=1e-5)
        assert np.array_equal((theirs["segmentation"] == info["id"]).numpy(), found.mask > 0)


def test_maskformer_from_a_folder(tmp_path):
    """A small random one: its classes are its words, and an unknown one is told."""
    from transformers import MaskFormerConfig, MaskFormerForInstanceSegmentation
    from transformers.models.maskformer.image_processing_pil_maskformer import MaskFormerImageProcessorPil

    from singleinsert.errors import InputError, ModelError

    config = MaskFormerConfig(
        fpn_feature_size=32, mask_feature_size=32, num_queries=6, id2label={0: "cat", 1: "Dining Table"},
        backbone_config={
            "model_type": "swin", "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1], "image_size": 64,
            "patch_size": 4, "window_size": 2, "out_features": ["stage1", "stage2", "stage3", "stage4"],
        },
        decoder_config={
            "model_type": "detr", "d_model": 32, "decoder_layers": 1, "encoder_layers": 1, "decoder_ffn_dim": 32,
            "encoder_ffn_dim": 32, "decoder_attention_heads": 2, "encoder_attention_heads": 2, "num_queries": 6,
        },
    )  # fmt: skip
    MaskFormerForInstanceSegmentation(config).save_pretrained(tmp_path)
    MaskFormerImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(tmp_path)
    finder = MaskFormer(str(tmp_path))
    picture = Image.new("RGB", (48, 40), "red")
    for found in finder.find(picture, "dining table"):
        assert found.mask.shape == (40, 48)
    with pytest.raises(InputError, match="has no class 'boat'"):
        finder.find(picture, "boat")
    with pytest.raises(ModelError, match="cannot be loaded: it needs"):
        MaskFormer(str(tmp_path / "nothing"))


def test_the_columns_of_a_scene():
    """A red face on the left and a blue cat on the right, asked for alone and together.

    Cut-outs are compared by their mean colour. Where they are swapped, each concept is nearer to the other one.
    """
    scene = Image.new("RGB", (8, 8), "red")
    scene.paste("blue", (4, 0, 8, 8))
    swapped = scene.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    masks = [Halves().find(scene, word)[0].mask for word in ("face", "cat")]
    subjects = tuple(
        Subject(word, word, Image.fromarray((mask * 255).astype(np.uint8)), 0.5)
        for word, mask in zip(("face", "cat"), masks, strict=True)
    )
    shown = TrainingPicture(scene, Frame.whole((8, 8)), subjects)
    scorer = SceneScorer(Protocol(judge="none"), "cpu")
    scorer.__dict__ |= {"finder": Halves(), "dino": Colours(), "looks": Colours(), "clip": None}
    prompts = [EditPrompt("{face}", (), (), ("face",)), EditPrompt("{face} and {cat}", (), (), ("face", "cat"))]
    alone, right, wrong = scorer.score([scene, scene, swapped], [prompts[0], prompts[1], prompts[1]], shown)
    assert alone.values["found"] == 1 and alone.values["count"] == 0 and alone.values["leak"] == 1  # the cat is there
    assert "leak" not in right.values and right.values["count"] == 1
    assert right.values["identity"] == pytest.approx(1) and right.values["mixing"] == 0
    assert wrong.values["mixing"] == 1 and wrong.values["margin"] < 0 < right.values["margin"]
    assert wrong.values["margin"] == pytest.approx(-right.values["margin"], abs=1e-5)
    assert set(wrong.matrix) == {"face", "cat"} and wrong.matrix["face"]["cat"] == pytest.approx(1)
    assert set(alone.matrix) == {"face"}
    scorer.__dict__["finder"] = type("Nothing", (), {"find": lambda self, picture, word: []})()
    (missed,) = scorer.score([scene], [prompts[1]], shown)
    assert missed.values == {"found": 0, "count": 0, "identity": 0} and missed.matrix == {}


def test_the_loss_without_its_mask_is_the_plain_one():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(2, 4, 6, 6, generator=generator) for _ in range(2))
    views = Views(b, a, None, None, torch.zeros(2, 1, 6, 6), torch.tensor([1.0, 0.5]))
    ours = BreakAScene(background_weight=0.0, attention_weight=0.0, masked=False).concept_terms(views)
    assert torch.equal(ours["foreground"], FullImage().concept_terms(views)["full_image"])
    masked = BreakAScene(background_weight=0.0, attention_weight=0.0).concept_terms(views)
    assert torch.equal(masked["foreground"], torch.zeros(2))


# rows


def rows_of(name: str) -> tuple[MethodSet, dict[str, Settings]]:
    """A set of methods, and the settings of its rows on mini-scenes."""
    found = load_methods(name)
    rows = {}
    for method in found.methods:
        base = load_settings(method.base, None, {"model.pretrained_model_name_or_path": "mini-scenes"})
        rows[method.name] = method.applied(base, method.base)
    return found, rows


def test_the_rows_of_the_papers_figure():
    found, rows = rows_of("scenes")
    paper = rows["scene-paper"]
    samples = {name: sum(s.steps * s.batch_size for s in row.stages.values()) for name, row in rows.items()}
    assert {samples[name] for name in rows if not name.startswith(("scene", "singleinsert"))} == {800}
    assert samples["scene-paper"] == 800
    assert paper.adapter.type == "full" and paper.stage2.learning_rate == 1.2e-5  # not the rate of LoRAs
    assert list(rows["paper-no-phase1"].stages) == ["stage2"] and rows["ti-m"].stages.keys() == {"stage1"}
    assert rows["cd-m"].adapter.type == "kv" and rows["cd-m"].adapter.denoiser_targets == ()
    assert rows["db"].scene.collection == 0 and rows["db"].scene.subset == "all" and rows["db-m"].scene.collection == 64
    assert {m.base for m in found.methods} == {"scene", "scene-paper", "paper"}
    assert found.published[0].label == "ELITE" and found.published[0].paper["rated-identity"] == 3.05


@pytest.mark.parametrize("name, first, several", [
    ("scenes-choices", "first", {"first-four": {"loss_space", "mask_normalization", "attention_loss", "phrase"}}),
    ("scenes-techniques", "few", {
        "foreground-attention-3": {"foreground_weight", "attention_weight"},
        **{name: {"type", "network_dim", "trains"} for name in ("kv", "gated")},
    }),
])  # fmt: skip
def test_one_thing_at_a_time_was_changed_in_a_preset_for_scenes(name, first, several):
    _, rows = rows_of(name)
    for row, settings in rows.items():
        if row.startswith("first-") or (first == "few" and row != first):
            changed = {
                f
                for part in ("concept", "adapter", "stage1", "stage2", "scene")
                for f in vars(getattr(settings, part))
                if getattr(getattr(settings, part), f) != getattr(getattr(rows[first], part), f)
            }
            assert changed == several[row] if row in several else len(changed) == 1, (row, changed)


METHODS = """title = "Two"
[[method]]
name = "together"
label = "together"
paper = { rated-prompt = 3.0, rated-identity = 2.5 }
settings.concept.type = "vector"
settings.stage2.steps = 0
[[method]]
name = "apart"
label = "apart"
like = "together"
apart = true
paper = { rated-prompt = 2.0, rated-identity = 3.5 }
settings.scene.phrase = "{placeholder} {class_word}"
[[method]]
name = "merged"
label = "merged"
like = "apart"
merged = true
settings.adapter.type = "kv"
settings.stage2.trains = ["concept", "denoiser"]
settings.stage2.semantic_weight = 0.0
settings.stage2.steps = 1
settings.stage2.batch_size = 1
[[method]]
name = "gated"
label = "gated"
like = "merged"
apart = false
[[claim]]
says = "together it mixes less"
column = "mixing"
of = "together"
against = "apart"
direction = "down"
[[published]]
label = "another"
why = "its weights cannot be had"
paper = { rated-prompt = 3.5 }
"""
PROMPTS = """title = "one"
[[prompt]]
text = "a photo of {concept} in the snow"
target = [{ question = "Is there snow?" }]
[[prompt]]
text = "{concept}"
target = [{ question = "Is there anything?" }]
"""


def scene_arguments(folder: Path, *more: str) -> list[str]:
    """``scenes`` on mini-sd: a picture of a face and a cat, trained together and apart."""
    image, mask = draw_subject(folder / "input")
    other = Image.new("L", (80, 64), 0)
    other.paste(255, (62, 0, 80, 64))
    other.save(folder / "input/other.png")
    masks = [str(mask), str(folder / "input/other.png")]
    (folder / "list.toml").write_text(
        f'[[job]]\nname = "kitchen"\nimage = {toml_string(str(image))}\nclass_word = ["face", "cat"]\n'
        f"mask = [{', '.join(map(toml_string, masks))}]\n"
    )
    (folder / "two.toml").write_text(METHODS)
    (folder / "prompts.toml").write_text(PROMPTS)
    return [
        "scenes", "--methods", str(folder / "two.toml"), "--concepts", str(folder / "list.toml"), "--prompts",
        str(folder / "prompts.toml"), "--seeds", "1", "--pretrained_model_name_or_path", "mini-sd", "--masks",
        "python:evaluations:halves", "--looks", "python:evaluations:colours", "--dino", "none", "--clip", "none",
        "--set", "scene.mixes=0", "--stage1_steps", "1", "--stage1_batch_size", "2",
        "--set", "sample.num_inference_steps=2", "--output_dir", str(folder / "out"), "--cache", str(folder / "cache"),
        *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    assert main(scene_arguments(folder)) == 0
    return folder


def test_the_command_draws_every_subset(done):
    results = Results.load(done / "out")
    (scene,) = results.concepts
    assert scene["handles"] == {"face": "face", "cat": "cat"} and scene["class_word"] == "face, cat"
    assert [p["handles"] for p in scene["prompts"]] == [["face"]] * 2 + [["cat"]] * 2 + [["face", "cat"]] * 2
    assert scene["prompts"][4]["text"] == "a photo of {face} and {cat} in the snow"
    assert len(results.samples) == 4 * 6 == len({s.picture for s in results.samples})
    assert results.columns == ["looks", "margin", "mixing", "count", "leak", "found"]
    for sample in results.samples:
        asked = scene["prompts"][sample.prompt]["handles"]
        assert set(sample.matrix) == set(asked) and sample.values["count"] == (len(asked) == 2)
        assert ("leak" in sample.values) == (len(asked) == 1)
    assert {n: len(part.samples) for n, part in sizes(results).items()} == {1: 16, 2: 8}
    matrix, summary = mixing_matrix(results), summarise(results)
    values = [row[h] for s in results.samples if s.method == "apart" for h, row in s.matrix.items()]
    assert matrix["apart"]["itself"].mean == pytest.approx(sum(values) / len(values))
    assert summary["apart"]["count"].mean == pytest.approx(2 / 6)
    cached = list((done / "cache/concepts").iterdir())
    assert len(cached) == 6  # one run together, two apart, two to be merged, one to be gated
    page = (done / "out/report/index.html").read_text()
    for text in ("By number of concepts", "Whose looks", "together it mixes less", "its weights cannot be had"):
        assert text in page
    shown = json.loads(page.split('id="data"')[1].split(">", 1)[1].split("</script>")[0])
    assert len(shown["concepts"][0]["prompts"]) == 3 and len(shown["samples"]) == 12  # one prompt of each subset
    assert not [p for p in (done / "out/.work").iterdir() if p.name != "state"]


def test_again_nothing_is_done_and_a_dry_run_says_so(done, capsys, monkeypatch):
    def never(*args, **kwargs):
        raise AssertionError("done again")

    monkeypatch.setattr("singleinsert.evaluate.studio.train", never)
    monkeypatch.setattr("singleinsert.evaluate.studio.ConceptPipeline", never)
    assert main(scene_arguments(done)) == 0
    capsys.readouterr()
    assert main(scene_arguments(done, "--dry_run")) == 0
    said = capsys.readouterr().out
    assert "together: 1 runs of 2 samples, 6 pictures; 0 of 1 to do, about 0 s of training" in said
    assert "apart: 2 runs of 4 samples, 6 pictures" in said and "all rows: about 0 s" in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--rows", "aprt"), "no method 'aprt'; did you mean apart"),
        (("--masks", "python:evaluations:bright"), "has no method find(picture, word)"),
        (("--looks", "python:evaluations:halves"), "has no method images(pictures)"),
        (  # before anything is trained
            ("--set", "adapter.denoiser_targets=to_q", "--rows", "gated"),
            "method gated is merged, which only keys and values of cross-attention can be, and it changes to_q:",
        ),
    ],
)
def test_what_is_wrong_is_told(done, capsys, tmp_path, change, message):
    words = [*scene_arguments(done), *change, "--output_dir", str(tmp_path / "other")]
    assert main(words) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error


def test_rows_that_stand_on_other_models_are_refused(done, capsys):
    words = scene_arguments(done)
    place = words.index("--pretrained_model_name_or_path")
    words[place : place + 2] = []
    words[words.index("--methods") + 1] = "scenes"
    assert main(words) == 2
    assert "name one for all by --pretrained_model_name_or_path" in capsys.readouterr().err


def test_a_command_for_the_other_kind_is_named(done, capsys):
    words = ["run", *scene_arguments(done)[1:], "--preset", "scene"]
    assert main(words) == 2
    assert "holds scenes: the command for them is scenes" in capsys.readouterr().err


def test_the_research_page_and_a_study_take_them(done, tmp_path, monkeypatch):
    """The block of the page; and people are asked with class words, not with handles in braces."""
    from singleinsert.evaluate.study.questions import RATING, make_items
    from testbed import evaluation_docs

    page = tmp_path / "scenes.md"
    page.write_text("<!-- out -->\n<!-- /out -->\n")
    monkeypatch.setattr(evaluation_docs, "PAGES", (page,))
    monkeypatch.setattr(evaluation_docs, "IMAGES", tmp_path / "images")
    monkeypatch.setattr(evaluation_docs, "KEPT", tmp_path)
    monkeypatch.setattr("sys.argv", ["evaluation_docs", str(done / "out")])
    assert evaluation_docs.main() == 0
    text = page.read_text()
    assert "1 scenes (1 of 2 concepts), 2 prompts with every subset, 1 pictures of each, 6 a row" in text
    for heading in ("One concept asked for", "2 concepts asked for", "Whose looks", "Its claims"):
        assert f"**{heading}**" in text
    assert "Not run: another. its weights cannot be had" in text and "| another | 3.500 |" in text
    results = Results.load(done / "out")
    assert (tmp_path / "out.json.xz").is_file()
    rated = replace(
        results,
        samples=[
            replace(s, concept=f"{s.concept}{scene}", values={"prompt": 0.2 + 0.1 * (s.method == "apart")})
            for s in results.samples
            for scene in range(3)  # of fewer nothing is beyond chance
        ],
    )
    # apart obeys more here; people said the reverse
    assert agreement(rated, "prompt") == (0, 1, [("together", "apart")]) and agreement(rated, "identity") is None
    items = make_items(Results.load(done / "out"), RATING, methods=[], seed="", rater="me", count=0)
    assert {item.text for item in items} >= {"a photo of a face and a cat in the snow", "a cat"}
    # people are asked about what a prompt names, and shown that alone of the scene
    study = Study(RATING, items, AnswerFile(tmp_path / "me.csv", RATING, "me"), done / "out", lambda key: None)
    shown = {}
    for item, screen in zip(items, study.state()["screens"], strict=True):
        assert screen["questions"]["identity"] == f"Does it show the same {item.class_word} as the reference?"
        shown[item.class_word] = np.asarray(study.reference(item))
    assert set(shown) == {"face", "cat", "face and cat"}
    white = {words: (picture == 255).all(-1) for words, picture in shown.items()}
    assert (white["face and cat"] == (white["face"] & white["cat"])).all()
    assert 0 < (~white["cat"]).sum() < (~white["face and cat"]).sum() < white["cat"].size


def test_a_preset_is_joined_to_those_that_rows_stand_on(done, capsys):
    """Its first name stands for the rows' own; what it does not say of them is no silent no."""
    rows = {method.name: method for method in load_methods("scenes").methods}
    assert rows["singleinsert"].preset_of_runs("scene+sdxl") == "paper+sdxl"
    assert rows["scene"].preset_of_runs("scene") == "scene"
    words = scene_arguments(done, "--rows", "scene,ti-m", "--preset", "mini")
    words[words.index("--methods") + 1] = "scenes"
    assert main(words) == 2
    assert "--preset mini: every row of scenes stands on a preset of its own (scene, scene-p" in capsys.readouterr().err
    # rows that all stand on other presets than the command's own are no reason to refuse it
    words = scene_arguments(done, "--rows", "singleinsert", "--dry_run", "--json")
    words[words.index("--methods") + 1] = "scenes"
    capsys.readouterr()
    assert main(words) == 0 and "scene" in capsys.readouterr().out
    words = scene_arguments(done, "--prompts", "auto", "--rows", "apart", "--output_dir", str(done / "auto"))
    assert main(words) == 2
    assert "--prompts auto goes by a single concept's class word: of scenes" in capsys.readouterr().err
