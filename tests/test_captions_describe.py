"""From a picture to a description: by hand, by words, by a model; and what a model must never get away with."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from runs import small_settings

from singleinsert.captions.answers import UnusableError, caption_from_answer
from singleinsert.captions.ask import RefusedError, clean_sentence, first_option, without_thoughts
from singleinsert.captions.critic import forgotten
from singleinsert.captions.describe import CaptionError, caption_of_words, describe
from singleinsert.captions.form import Room
from singleinsert.captions.instruction import instruction
from singleinsert.config import CaptionSettings, load_settings
from singleinsert.data.captions import CONCEPT, METADATA
from singleinsert.data.pictures import Picture
from singleinsert.errors import ConfigError, InputError
from singleinsert.training.prepare import describe_picture, find_material
from singleinsert.training.run import train
from testbed.world.features import EDITS
from testbed.world.scene import Instance, Scene, draw

ROOM = Room(lambda text: len(text.replace(",", " ,").split()))
GOOD = "A photo of a young face wearing a red hat on a beach."


class Scripted:
    """A model that gives prepared captions, and a letter by phrase."""

    name, captions_only = "vlm:scripted", False

    def __init__(
        self, *answers: str | Exception, letters: dict[str, str] | None = None, missing: Any = "nothing"
    ) -> None:
        self.answers, self.letters, self.missing = list(answers), letters or {}, missing
        self.asked: list[str] = []

    def __call__(self, picture, text):
        if text.startswith("List the visible things"):
            if not isinstance(self.missing, str):
                raise self.missing
            return self.missing
        self.asked.append(text)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def choose(self, picture, text, options):
        return next((letter for phrase, letter in self.letters.items() if f'"{phrase}"' in text), None)

    def close(self):
        pass


@pytest.fixture
def picture(tmp_path) -> Picture:
    return Picture(Image.new("RGB", (16, 16)), None, tmp_path / "me.png")


def by(ask, picture, word="face", **settings):
    return describe(picture, word, CaptionSettings(**settings), room=ROOM, ask=ask)


# --- answers ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ("Sure! Here is a caption:\n\"A face on a beach.\" It is nice.", "A face on a beach"),
        ("**Caption:** a face \u2014 on a \u201cred\u201d  sofa.", "a face, on a red sofa"),
        ("<think>hm. A hat.</think>A face.\nMore", "A face"),
        ("hidden thoughts</think> A face", "A face"),
        ("<think>never ends", ""),
        ("A face next to Mr. Smith. More.", "A face next to Mr. Smith"),
        ("This image shows a face", "a face"),
        ("caf\u00e9 face \U0001f600", "cafe face"),
        ("* A face on a beach.\n* Another.", "A face on a beach"), ("1. A face", "A face"), ("\u2022 A face", "A face"),
        ("```text\nA face on a beach.\n```", "A face on a beach"), ('{"caption": "A face in snow."}', "A face in snow"),
        ('```json\n{"caption": "A face"}\n```', "A face"), ("a * face", "a * face"),
    ],
)  # fmt: skip
def test_an_answer_becomes_a_sentence(answer, sentence):
    assert clean_sentence(answer).replace(" , ", ", ") == sentence


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("", "is empty"), ("...", "is empty"), ("<think>all of it", "is empty"),
        ("I'm sorry, but I can't help with identifying people in images.", "declines"),
        ("As an AI, I cannot describe this face.", "declines"), ("I am unable to assist with that face.", "declines"),
        ("a photo of a face " + "on a very long beach with sand and water " * 12, "rambles|repeats"),
        (" ".join(f"word{k}" for k in range(400)) + " face", "rambles: 401 words"),
        ("a face hat hat hat hat", "repeats itself: 'hat'"),
        ("a photo of a face.", "says nothing beside the face"),
        ("a photo of an old face with grey hair", "says nothing"),
        ("Yes.", "does not name the face"), ("red, beach, hat", "does not name the face"),
    ],
)  # fmt: skip
def test_what_is_no_caption_says_why(answer, said):
    with pytest.raises(UnusableError, match=said) as error:
        caption_from_answer(answer, "face")
    assert "\n" not in str(error.value)


def test_another_word_for_the_subject_is_replaced_and_said():
    caption, notes = caption_from_answer("The image shows a smiling young woman wearing a red hat.", "face")
    assert caption == "a photo of a smiling young {concept} wearing a red hat"
    assert notes == ["calls the face 'woman': is it the same thing?"]


@pytest.mark.parametrize(
    ("answer", "caption"),
    [
        ("a painting of a boat on a river", "of a boat on a river"),
        ("A cat sitting on a bench in the snow", "of a cat sitting on a bench in the snow"),
        ("A painting in the style of impressionism of a boat", "of a boat"),
        ("a drawing in the style of van Gogh of two boats", "of two boats"),
    ],
)
def test_of_a_style_all_that_is_to_be_seen_is_said(answer, caption):
    """Models that cannot be instructed never say "art": what they name is not the concept."""
    found, notes = caption_from_answer(answer, "art")
    assert found == f"a painting in the style of {{concept}} {caption}" and "does not name the art" in notes[0]
    told, notes = caption_from_answer(f"a painting in the style of art {caption}", "art")
    assert told == found and not notes


def test_a_subject_of_several_words_gets_one_article():
    assert caption_from_answer("A dog on a beach", "top hat")[0] == "a photo of a {concept} on a beach"


def test_an_answer_that_goes_on_is_cut_and_says_so():
    caption, notes = caption_from_answer(GOOD + " It is a lovely day." + " And so on." * 100, "face")
    assert caption.endswith("on a beach") and notes == [
        "went on for 305 words more, which are left out: only the first sentence counts"  # 5 and 100 * 3
    ]


PIECES = (
    "a the face photo of with red hat, on beach. Sure: sorry I can't <think> </think> \n * \" {concept} \u2014 no 1."
).split(" ")


@given(st.text(max_size=80) | st.lists(st.sampled_from(PIECES), max_size=30).map(" ".join))
def test_every_answer_is_a_caption_or_a_reason(answer):
    try:
        caption, _ = caption_from_answer(answer, "face")
        assert CONCEPT in caption and "\n" not in caption and caption.isascii()
    except UnusableError as problem:
        assert str(problem) and "\n" not in str(problem)


@pytest.mark.parametrize(
    ("answer", "read"),
    [("B", "B"), ("(C) another thing", "C"), ("The answer is D.", "D"), ("A hat is worn", None), ("A", "A"), ("", None),
     ("b", None), ("Answer: F\nbecause", "F")],
)  # fmt: skip
def test_a_letter_is_read(answer, read):
    assert first_option(answer, list("ABCDEF")) == read
    assert without_thoughts(f"<think>A</think>{answer}") == answer


# --- the description --------------------------------------------------------------------------------------------------
def test_only_what_words_and_critic_call_subject_is_dropped(picture):
    ask = Scripted(GOOD, letters={"young": "A", "wearing a red hat": "A", "on a beach": "C"})
    found = by(ask, picture)
    assert found.text == "a photo of a {concept} wearing a red hat on a beach"
    assert found.original == "a photo of a young {concept} wearing a red hat on a beach"
    assert [v.status for v in found.verdicts] == ["drop", "look", "keep"]  # the hat: the critic alone is no reason
    assert found.class_prompt == "a photo of a face wearing a red hat on a beach"
    by_words = by(Scripted(GOOD, letters={"young": "D"}), picture)
    assert by_words.text == by_words.original and [v.status for v in by_words.verdicts] == ["look", "keep", "keep"]
    assert any("young: by the words, the subject's own looks; by the model, pose" in line for line in by_words.lines())


def test_what_the_model_does_not_see_is_shown_and_stays(picture):
    found = by(Scripted(GOOD, letters={"on a beach": "F"}), picture)
    assert "on a beach" in found.text and found.verdicts[2].status == "look"
    assert "not to be seen in the picture" in found.verdicts[2].line()


def test_a_critic_that_says_nothing_is_no_check_that_passed(picture):
    found = by(Scripted(GOOD, letters={"on a beach": "C"}), picture)
    assert any(re.search(r"judged by the words alone in 2 of its 3 phrases", note) for note in found.warnings)
    whole = by(Scripted(GOOD, letters={"young": "A", "wearing a red hat": "B", "on a beach": "C"}), picture)
    assert not any("the words alone" in note for note in whole.warnings)


def test_what_was_written_is_not_lost_where_the_critic_fails(picture):
    ask = Scripted(GOOD)
    ask.choose = lambda *_: (_ for _ in ()).throw(RefusedError("declined"))
    with pytest.raises(
        CaptionError, match="declined; it had written, unchecked: 'a photo of a young {concept} wearing"
    ):
        by(ask, picture)


def test_what_was_written_is_not_lost_where_the_last_question_fails(picture):
    for refused in (RefusedError("declined"), ConnectionAbortedError):
        ask = Scripted(GOOD)
        ask.missing = refused
        if refused is ConnectionAbortedError:  # what is no answer of a model is no note
            with pytest.raises(ConnectionAbortedError):
                by(ask, picture)
        else:
            found = by(ask, picture)
            assert found.text.endswith("on a beach")
            assert "was not compared with all that is to be seen: declined" in found.warnings


def test_the_first_answer_may_fail_and_the_second_is_told_why(picture):
    ask = Scripted("I'm sorry, I can't.", GOOD)
    assert by(ask, picture).original.endswith("on a beach")
    assert len(ask.asked) == 2 and ask.asked[1].startswith(ask.asked[0]) and "declines" in ask.asked[1]


@pytest.mark.parametrize(
    "answer",
    ["", "I'm sorry, I can't help with that.", "word " * 400, " ".join(f"w{k}" for k in range(400)),
     "a photo of a face", "a young face", RefusedError("vlm:scripted declined to answer: no")],
)  # fmt: skip
def test_a_bad_answer_is_an_error_and_never_plain(picture, answer):
    with pytest.raises(CaptionError, match="me.txt") as error:
        by(Scripted(answer), picture)
    assert "\n" not in str(error.value) and "scripted" in str(error.value)


def test_nothing_is_left_when_all_is_dropped(picture):
    """The one phrase that made it a description is taken for the subject's by both: an error, not plain training."""
    ask = Scripted("a photo of a face with long hair on a beach")
    assert by(ask, picture).text.endswith("on a beach")
    with pytest.raises(CaptionError, match="says nothing beside"):
        by(Scripted("a photo of an old face with long hair", letters={"old": "A", "with long hair": "A"}), picture)


def test_a_caption_that_is_too_long_is_cut_at_a_phrase(picture):
    room = Room(
        ROOM.count, limit=12
    )  # "a photo of a young face wearing a red hat" has 10 words, the vector is the 11th
    found = describe(picture, "face", CaptionSettings(), room=room, ask=Scripted(GOOD))
    assert found.text == "a photo of a young {concept} wearing a red hat"
    assert any("cut from its end: 'on a beach'" in warning for warning in found.warnings)


def test_what_is_missing_is_said(picture):
    found = by(Scripted(GOOD, missing="1. a blue boat\n2. a red hat\n- nothing"), picture)
    assert "does not say: pose, view or facial expression, light" in found.warnings
    assert "does not name, says the model: a blue boat" in found.warnings
    assert forgotten(Scripted("x", missing="I'm sorry, I can't"), picture.image, "a {concept}", "face") == []


def test_the_users_file_goes_first_and_is_never_changed(picture):
    file = picture.path.with_suffix(".txt")
    file.write_text("a photo of a young * face with long hair\n")
    found = by(Scripted(RefusedError("not asked")), picture, describe="vlm:nowhere")
    assert found.text == found.original == "a photo of a young {concept} with long hair"
    assert [v.status for v in found.verdicts] == ["look", "look"] and found.source == "me.txt"
    assert any("says nothing beside the face" in warning for warning in found.warnings)
    assert file.read_text() == "a photo of a young * face with long hair\n"


def test_what_is_not_asked_or_not_read_is_said(picture):
    said: list[str] = []
    wanted = CaptionSettings(describe="words: red hat")
    picture.path.with_suffix(".txt").write_text("a * face in snow\nand more\n")
    describe(picture, "face", wanted, room=ROOM, say=said.append)
    picture.path.with_suffix(".txt").unlink()
    (picture.path.parent / METADATA).write_text('{"file_name": "you.png", "text": "a face in snow"}')
    assert describe(picture, "face", CaptionSettings(), room=ROOM, say=said.append) is None
    assert said == [
        "note: words: red hat is not asked: me.txt has the description",
        "note: the first line of me.txt is the description, 1 more line of it is not read",
        "note: metadata.jsonl has no text for me.png, which is learnt without a description",
    ]


def test_a_caption_that_names_no_subject_is_named_by_its_place(picture):
    file, rows = picture.path.with_suffix(".txt"), picture.path.parent / METADATA
    rows.write_text('{"file_name": "me.png", "text": "a red hat"}')
    with pytest.raises(InputError, match=rf"^{rows}, me.png: 'a red hat' says neither face nor .*: write \* where"):
        by(None, picture)
    file.write_text("a green hat")
    with pytest.raises(InputError, match=rf"^caption file {file}: 'a green hat' says neither face nor"):
        by(None, picture)


@pytest.mark.parametrize(
    "text",
    ["I'm sorry, but I can't describe the face in this picture.", "Unfortunately, I cannot describe this * face",
     "Sorry, a face", "I\u2019m not able to describe the face."],
)  # fmt: skip
def test_a_refusal_that_was_saved_as_a_caption_is_an_error(picture, text):
    picture.path.with_suffix(".txt").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"me\.txt: .* is a refusal and no caption: write what is to be seen") as error:
        by(None, picture)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="data.description: .* is a refusal"):
        settings = load_settings("mini+plain", None, {"data.description": [text]})
        describe_picture(picture, "face", settings, 0, 1, str)


@pytest.mark.parametrize(
    "text",
    ["a sorry looking {concept} that can't fly", "a very sorry, wet {concept} on a road", "a {concept} against my sofa",
     "a {concept} with a sign that says \"I'm sorry\"", "a {concept} that cannot be seen from here"],
)  # fmt: skip
def test_a_caption_that_only_sounds_like_a_refusal_is_taken(picture, text):
    picture.path.with_suffix(".txt").write_text(text)
    assert by(None, picture).text == text


def test_words_alone(picture):
    found = by(None, picture, describe="words: red hat,  beach ,")
    assert found.text == "a photo of a {concept}, red hat, beach" and found.source == "the words given"
    assert caption_of_words("a tree", "art") == "a painting in the style of {concept}, a tree"
    assert caption_of_words("a tree", "apple") == "a photo of a {concept}, a tree"
    with pytest.raises(ConfigError, match="empty"):
        by(None, picture, describe="words: ,")


def test_nothing_asked_for_is_none_and_a_wrong_model_is_not(picture):
    assert by(None, picture) is None and by(None, picture, mode="off") is None
    with pytest.raises(CaptionError, match=r"caption.mode O2 needs a description of me.png: write it into me.txt"):
        by(None, picture, mode="O2")
    with pytest.raises(ConfigError, match="names no vision-language model"):
        by(None, picture, describe="smolvlm")


def test_a_model_that_only_captions_is_not_questioned(picture):
    ask = Scripted("a young woman in a red hat on the beach", letters={"young": "A"})
    ask.captions_only = True
    found = by(ask, picture)
    assert found.text == "a photo of a young {concept} in a red hat on the beach"
    assert any("cannot be instructed" in warning for warning in found.warnings)


def test_the_instruction():
    text = instruction("elephant")
    assert '"a photo of an elephant"' in text and "facial expression" not in text and "{" not in text
    assert "its facial expression" in instruction("face")
    assert '"a painting in the style of art"' in instruction("art") and "brush strokes" in instruction("art")
    assert instruction("cat", " Describe the {class_word} {x}. ") == "Describe the cat {x}."
    with pytest.raises(InputError, match="--class_word"):
        instruction(" ")


# --- in a training ----------------------------------------------------------------------------------------------------
@pytest.fixture
def photos(tmp_path) -> list[str]:
    """Three drawn faces, each with its mask beside it."""
    paths = []
    for number in range(3):
        drawn = draw(Scene((Instance.from_seed(number, "face"),), ({k: v[0] for k, v in EDITS.items()},), "beach"))
        paths.append(str(tmp_path / f"{number}.png"))
        drawn.image.save(paths[-1])
        drawn.masks["subject"].save(tmp_path / f"{number}_mask.png")
    return paths


def test_a_training_opens_its_model_once_where_it_is_fast(photos, monkeypatch):
    loaded, closed = [], []

    def load(spec, device):
        loaded.append((spec, device))
        ask = Scripted(GOOD)
        ask.close = lambda: closed.append(spec)
        return ask

    monkeypatch.setattr("singleinsert.captions.ask.load_ask", load)
    monkeypatch.setattr("singleinsert.captions.ask.best_device", lambda name: f"the best of {name}")
    values = {"data.image": photos, "caption.describe": "vlm:some/model"}
    material = find_material(load_settings("mini+plain", None, values), str)
    assert loaded == [("vlm:some/model", "the best of auto")] and closed == ["vlm:some/model"]
    assert [picture.description for picture in material.given] == [
        "a photo of a young {concept} wearing a red hat on a beach"
    ] * 3


def test_photos_that_would_share_a_caption_or_a_mask_are_refused(photos):
    twin = photos[0].replace(".png", ".bmp")
    Image.open(photos[0]).save(twin)
    settings = load_settings("mini+plain", None, {"data.image": [photos[0], twin]})
    with pytest.raises(InputError, match=r"0\.png and 0\.bmp would share 0_mask\.png: rename one of them"):
        find_material(settings, str)
    again = load_settings("mini+plain", None, {"data.image": [photos[0], photos[0]]})
    assert len(find_material(again, str).given) == 2  # one photo twice shares what is its own


@pytest.mark.parametrize(
    "given", [{"caption__describe": "words:on Anna's sofa"}, {"data__description": ["a * face on Anna's sofa"]}]
)
def test_a_description_that_is_not_to_be_kept_is_in_no_artifact(tmp_path, tiny_sd, given):
    for keep in (True, False):
        out = tmp_path / str(keep)
        train(
            small_settings(out, tiny_sd, stage1__steps=1, stage2__steps=1, run__check="on", caption__keep=keep, **given)
        )
        (artifact,) = out.rglob("*_artifact.safetensors")
        assert (b"Anna" in artifact.read_bytes()) == keep
