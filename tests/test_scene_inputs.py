"""What a user may get wrong with several concepts of one picture: one line each, and nothing is written."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image
from runs import Said, small_settings

import train_singleinsert
from singleinsert.config import load_settings
from singleinsert.data.subject import BACKGROUND, BACKGROUND_HANDLE, name_handles
from singleinsert.errors import InputError
from singleinsert.masks.collection import MaskSet, NamedMask, save_masks
from singleinsert.models.bundled import MINI_SD
from singleinsert.models.loading import load_base_model
from singleinsert.placeholders import with_class_words
from singleinsert.training.encode import make_concepts
from singleinsert.training.handles import find_handles, sample_prompts
from singleinsert.training.prepare import find_material, mask_files
from singleinsert.training.prompting import without_placeholder
from singleinsert.training.run import train

FACE = Path(__file__).parents[1] / "examples" / "face.png"
SIZE = (64, 64)
MASKS = {
    "left": (4, 4, 30, 60), "right": (34, 4, 60, 60), "inner": (10, 10, 24, 50), "empty": (0, 0, 0, 0),
    "west": (0, 0, 32, 64), "east": (32, 0, *SIZE),
}  # fmt: skip

WORDS = {"photo": {"face": "left", "cup": "right"}, "other": {"face": "right", "cup": "left"}}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.open(FACE).convert("RGB").resize(SIZE).save("photo.png")
    for name, box in MASKS.items():
        mask = Image.new("L", SIZE, 0)
        mask.paste(255, box)
        mask.save(f"{name}.png")
    Image.new("L", (40, 40), 255).save("small.png")
    return tmp_path


PAIR = "--class_word face --class_word cup "
BOTH = PAIR + "--mask left.png --mask right.png "
NOTHING = "".join(f"--set stage1.{name}_weight=0 " for name in ("foreground", "background", "semantic", "attention"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--class_word cat\u200b --class_word face", "is empty or holds characters that cannot be seen"),
        ("--class_word horse --class_word face", "no word for 'horse', only face, cat, dog"),
        (PAIR + "--set mask.threshold=1", "no face was found in photo.png"),
        (PAIR + "--set mask.threshold=1", "give a mask for each class word, in their order, with --mask FILE"),
        (BOTH + "--set data.handles=anna,Anna", "two concepts are called anna: give each its own name with data.han"),
        (BOTH + "--set data.handles=anna", "data.handles names 1 concepts, data.class_word has 2"),
        (
            "--class_word background --class_word face --learn_background --mask left.png --mask right.png",
            "a concept called background is what --learn_background learns",
        ),
        ("--class_word background --class_word face", "a concept called background is what --learn_background learns"),
        (BOTH + "--set data.handles=a,Concept", "'Concept' cannot be a concept's name: it means something else"),
        (BOTH + "--scene_words sofa", "caption.describe (--describe, --scene_words): only a single concept can have a"),
        (BOTH + "--set caption.mode=O5", "caption.mode O5: only a single concept can have a description"),
        ("--class_word face --learn_background --set data.description=x", "data.description: only a"),
        (PAIR + "--mask left.png", "1 mask for 2 class words: give one for each, in their order"),
        (PAIR + "--mask left.png --mask small.png", "small.png is 40x40 but the picture is 64x64"),
        (PAIR + "--mask left.png --mask empty.png", "the mask from file empty.png is empty"),
        (PAIR + "--mask left.png --mask none.png", "--mask none.png: there is no such file"),
        (PAIR + "--mask left.png --mask left.png", "the mask of cup is covered wholly by face: paint them apart, or"),
        (
            PAIR + "--class_word cat --mask left.png --mask west.png --mask left.png",
            "the mask of cat is covered wholly by face: paint",
        ),
        (PAIR + "--learn_background --mask west.png --mask east.png", "the mask of background, cropped to the train"),
        (BOTH + "--set sample.prompts={dog}", "{dog} in the prompt '{dog}' names no concept of this run: there are fa"),
        (BOTH + "--set sample.prompts=<dog>", "<dog> in the prompt '<dog>' names no concept of this run"),
        (BOTH + "--set scene.phrase={class_word}", "does not hold {placeholder}: no concept is named"),
        (BOTH + "--set scene.prompt=snow", "scene.prompt 'snow' does not hold {concepts}: no concept is named"),
        (
            PAIR + "--set mask.box=1,2,30,40",
            "mask.box is for a single concept, and there are 2 (face, cup): leave it out",
        ),
        ("--class_word face --class_word face --set mask.merge=true", "mask.merge is for a single concept"),
        (
            "--class_word face --class_word face",
            "2 concepts are face, and in photo.png 1 was found: give a mask for each",
        ),
        (
            BOTH + "--image photo.png",
            "2 masks for 2 class words in 2 pictures: give a folder of masks for each picture",
        ),
        (BOTH + "--set scene.collection=8 --set scene.flip=true", "scene.flip has no effect with scene.collection"),
        (BOTH + "--set scene.mixes=0 --set scene.collection=1", "none of its pictures shows"),
        (BOTH + NOTHING, "stage1: foreground_weight, background_weight, semantic_weight, attention_weight are all 0"),
        (
            "--class_word face --mask left.png --preset paper --set stage1.masked=false",
            "stage1.masked has no effect with stage1.objective singleinsert",
        ),
        (
            "--class_word a --class_word b --class_word c --class_word d --class_word e --class_word f --class_word g "
            "--class_word h --learn_background",
            "9 concepts of one picture: at most 8 can be told apart",
        ),
    ],
)
def test_bad_input_is_one_line(words, message, here, capsys):
    before = sorted(here.rglob("*"))
    common = "--preset scene --pretrained_model_name_or_path mini-scenes --image photo.png --output_name kitchenxy"
    assert train_singleinsert.main([*common.split(), *words.split()]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert message in line and sorted(here.rglob("*")) == before


def test_a_description_beside_the_picture_of_several_concepts_is_said_to_be_unused(here):
    Path("photo.txt").write_text("a face and a cup on pink fabric")
    words = {"data.class_word": ["face", "cup"], "data.image": "photo.png", "data.mask": ["left.png", "right.png"]}
    said: list[str] = []
    find_material(load_settings("scene", None, words), said.append)
    assert any("note: the description of photo.png is not used" in line for line in said), said


def test_an_alpha_channel_is_not_every_concepts_mask(here):
    """Of a photo that was cut out: the masks are looked for in it, as they are without transparency."""
    photo = Image.open("photo.png").convert("RGBA")
    photo.putalpha(Image.open("west.png"))
    photo.save("cut.png")
    values = {
        "data.image": "cut.png",
        "data.class_word": ["face", "hair"],
        "data.overlap": "keep",
        "mask.backend": "mini",
    }
    material = find_material(load_settings("scene", None, values), str)
    face, hair = (subject.mask.tobytes() for subject in material.given[0].subjects)
    assert face != hair and not any("alpha" in result.source for result in material.found)


def test_the_masks_beside_a_picture_are_taken_and_stay_as_they_were_edited(here, capsys):
    """As one concept's mask is: --mask_only writes the folder once, and what is painted there counts from then on."""
    words = "--image photo.png --class_word face --class_word cup --mask_only".split()
    assert train_singleinsert.main([*words, "--mask", "left.png", "--mask", "right.png"]) == 0
    edited = Path("photo_masks/cup.png")
    Image.open("east.png").save(edited, comment="painted")
    painted = edited.read_bytes()
    assert train_singleinsert.main(words) == 0 and edited.read_bytes() == painted
    assert "from photo_masks" in capsys.readouterr().out
    settings = load_settings(None, None, {"data.image": "photo.png", "data.class_word": ["face", "cup"]})
    subjects = find_material(settings, str).given[0].subjects
    assert [subject.mask.getbbox() for subject in subjects] == [MASKS["left"], MASKS["east"]]
    assert [path.name for _, path in mask_files(settings, [Path("photo.png")])] == [
        "cup.png", "face.png", "masks.toml", "overlay.png",
    ]  # fmt: skip
    assert train_singleinsert.main([*words, "--mask", "left.png", "--mask", "right.png"]) == 2
    assert "photo_masks holds masks of photo.png already: move it away, or leave --mask out" in capsys.readouterr().err
    assert edited.read_bytes() == painted
    other = [word.replace("cup", "dog") for word in words]
    assert train_singleinsert.main(other) == 2
    assert "photo_masks: no mask 'dog', only face, cup: add it, name other masks with --mask" in capsys.readouterr().err


def test_a_handle_that_prompts_write_otherwise_is_said(here):
    lines = []
    values = {"data.image": "photo.png", "data.class_word": ["face", "cup"], "data.mask": ["left.png", "right.png"]}
    settings = load_settings(None, None, values | {"data.handles": ["the face", "cup"]})
    assert find_material(settings, lines.append).handles[0].name == "the_face"
    assert [line for line in lines if "called" in line] == [
        "note: the concept 'the face' is called {the_face} in prompts"
    ]


def test_each_of_several_pictures_has_its_own_set_of_masks(here):
    """A scene seen twice; a set that was made for another picture, or one for all, is no set of this one."""
    Image.open("photo.png").transpose(Image.Transpose.FLIP_LEFT_RIGHT).save("other.png")
    for name in ("photo", "other"):
        masks = tuple(NamedMask(word, word, Image.open(f"{file}.png")) for word, file in WORDS[name].items())
        save_masks(MaskSet(f"{name}.png", SIZE, masks), Path(f"{name}_masks"))
    values = {"data.image": ["photo.png", "other.png"], "data.class_word": ["face", "cup"]}

    def boxes(*folders):
        settings = load_settings("scene", None, values | {"data.mask": folders, "data.resolution": 64})
        return [[s.mask.getbbox() for s in picture.subjects] for picture in find_material(settings, str).given]

    assert boxes("photo_masks", "other_masks") == [[MASKS["left"], MASKS["right"]], [MASKS["right"], MASKS["left"]]]
    with pytest.raises(InputError, match="1 folder of masks for 2 pictures"):
        boxes("photo_masks")
    with pytest.raises(InputError, match=r"other_masks holds the masks of other\.png, not of photo\.png"):
        boxes("other_masks", "photo_masks")
    with pytest.raises(InputError, match="and others that are none"):
        boxes("photo_masks", "left.png")


def test_names_in_sample_prompts():
    handles = (*name_handles(["cat", "mug"], [], "*"), BACKGROUND_HANDLE)
    assert sample_prompts(["a {Cat} on <background>", "{concept} in snow"], handles) == [
        "a <cat> cat on <background>",
        "<cat> cat and <mug> mug in snow",  # the learnt background is another place
    ]
    assert len(sample_prompts(["{concept}"], handles)) == 3 + 3 + 1
    assert sample_prompts(["{concept}"], handles[:2])[-1] == "a photo of <cat> cat and <mug> mug"
    with pytest.raises(InputError, match="{dog} in the prompt 'a {dog}' names no concept of this run: there are cat"):
        sample_prompts(["a {dog}"], handles)


@pytest.mark.parametrize(("preset", "alone"), [("scene", False), ("scene-paper", True)])
def test_concepts_are_named_as_they_were_trained(preset, alone):
    """The paper's prompts say the handle alone."""
    own = {"data.class_word": ["cat", "mug"], "data.learn_background": True, "data.image": "a.png"}
    handles = find_handles(load_settings(preset, None, own))
    assert [(handle.name, handle.alone) for handle in handles] == [("cat", alone), ("mug", alone), (BACKGROUND, alone)]
    (drawn,) = sample_prompts(["{cat} on <background>"], handles)
    assert drawn == ("<cat> on <background>" if alone else "<cat> cat on <background>")
    words = {handle.placeholder: handle.class_word for handle in handles}
    assert with_class_words(drawn, words) == "cat on background"


@pytest.mark.parametrize(
    ("phrase", "alone", "frozen"),
    [
        ("a {placeholder} {class_word}", False, "a cat"), ("{placeholder}", True, "a cat"),
        ("a {concept}", False, "a cat"), ("a {placeholder}", True, "a cat"),
        ("my {placeholder} of glass", True, "my cat of glass"),
    ],
)  # fmt: skip
def test_one_rule_says_whether_a_phrase_has_the_class_word(phrase, alone, frozen):
    own = {"data.class_word": ["cat", "mug"], "data.image": "a.png", "scene.phrase": phrase}
    handles = find_handles(load_settings("scene", None, own))
    assert [handle.alone for handle in handles] == [alone, alone]
    assert without_placeholder(phrase, "cat") == frozen


def test_the_sheets_heat_maps_are_of_the_photo_not_of_a_collage(here, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "singleinsert.training.results.handle_maps",
        lambda model, book, concepts, prompt, picture, *rest: seen.append((prompt, picture)) or {},
    )
    scene = {"data__class_word": ("face", "cup"), "data__mask": ("left.png", "right.png"), "scene__collection": 4}
    scene |= {"concept__type": "vector", "data__resolution": 64, "stage1__steps": 1, "stage2__steps": 0}
    settings = small_settings(here, MINI_SD, **scene)
    train(replace(settings, data=replace(settings.data, image=("photo.png",))), watch=Said())
    ((prompt, picture),) = seen
    assert prompt.handles == ("face", "cup") and {*picture.fine_masks} == {"face", "cup"}
    left = picture.fine_masks["face"][0, 0]  # at its place in the photo, on its left side
    assert left[:, : left.shape[1] // 2].sum() > 0 == left[:, left.shape[1] // 2 :].sum()


@pytest.mark.parametrize("made", ["mixes", "collection"])
def test_image_encoders_and_the_sheet_see_the_photo_not_what_is_made_of_it(made, here, tiny_sd):
    """33 pictures instead of one made an optimiser step half as long again."""
    scene = {"data__class_word": ("face", "cup"), "data__mask": ("left.png", "right.png"), f"scene__{made}": 5}
    settings = small_settings(here, tiny_sd, **scene)
    settings = replace(settings, data=replace(settings.data, image=("photo.png",)))
    material = find_material(settings, str)
    assert len(material.pictures) == {"mixes": 1 + 5, "collection": 5}[made]
    assert [picture.handles for picture in material.given] == [("face", "cup")]
    concepts = make_concepts(settings, load_base_model(tiny_sd), material, str)
    assert [len(concepts[handle].pixels) for handle in concepts.handles] == [1, 1]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({}, "5 concepts share 250 + 500 steps"),
        (
            {"stage1.steps": 7, "stage2.steps": 9},
            "5 concepts share 7 + 9 steps: for as many looks at each as 4 have, raise stageN.steps",
        ),
        ({"stage1.steps": 7}, "5 concepts share 7 + 500 steps"),
    ],
)
def test_above_four_concepts_their_steps_are_said(here, more, said):
    words = [f"word{n}" for n in range(5)]
    for n, word in enumerate(words):
        mask = Image.new("L", SIZE, 0)
        mask.paste(255, (4 + 12 * n, 4, 12 + 12 * n, 60))
        mask.save(f"{word}.png")
    own = {"data.image": "photo.png", "data.class_word": words, "data.mask": [f"{word}.png" for word in words]}
    lines: list[str] = []
    find_material(load_settings("scene", None, own | {"data.resolution": 64} | more), lines.append)
    assert [line for line in lines if "concepts share" in line] == [said]
