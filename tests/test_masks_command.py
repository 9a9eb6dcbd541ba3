"""`python -m singleinsert.masks`: one picture, several masks, a folder that is gone through again."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from photos import astronaut_face, iou, write_photo
from PIL import Image

from singleinsert.config import load_settings
from singleinsert.data.pictures import load_picture
from singleinsert.masks.__main__ import main
from singleinsert.masks.batch import class_words, list_pictures
from singleinsert.masks.collection import load_masks
from singleinsert.training.prepare import find_material
from testbed.dataset import held_out_scenes
from testbed.world.scene import draw


@pytest.fixture(scope="module")
def drawings(tmp_path_factory) -> Path:
    """Three drawn pictures, the class in each name."""
    folder = tmp_path_factory.mktemp("drawings")
    for number, scene in enumerate(held_out_scenes(3)):
        draw(scene).image.save(folder / f"{number}-{scene.instances[0].cls}.png")
    return folder


def words_file(drawings: Path, folder: Path) -> Path:
    file = folder / "words.toml"
    lines = [f'"{path.name}" = "{path.stem.split("-")[1]}"' for path in drawings.iterdir()]
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def test_help_is_quick_and_imports_nothing_heavy():
    code = (
        "import sys; sys.argv = ['masks', 'find', '--help']\n"
        "from singleinsert.masks.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'numpy', 'PIL', 'cv2', 'transformers', 'gradio') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n") and "--mask_index" in done.stdout


def test_one_picture(tmp_path, capsys):
    photo = write_photo("astronaut", tmp_path)
    assert main(["find", "--image", str(photo), "--preset", "face"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "mask: from face cascade and GrabCut, covers 2.9% of the picture"
    assert out[-2:] == [str(tmp_path / "astronaut_mask.png"), str(tmp_path / "astronaut_mask_overlay.png")]
    mask = np.asarray(Image.open(tmp_path / "astronaut_mask.png")) >= 128
    assert iou(mask, astronaut_face()) >= 0.85


def test_a_mask_that_is_there_stays(tmp_path, capsys):
    photo = write_photo("coffee", tmp_path)
    by_hand = Image.new("L", (600, 400), 7)
    by_hand.save(tmp_path / "coffee_mask.png")
    command = ["find", "--image", str(photo), "--class_word", "cup", "--box", "75,15,480,385"]
    assert main(command) == 2
    assert "coffee_mask.png is already there: --overwrite replaces it" in capsys.readouterr().err
    assert Image.open(tmp_path / "coffee_mask.png").getextrema() == (7, 7)
    assert main([*command, "--overwrite", "--no-fill_holes", "--points", "290,150", "365,270,0"]) == 0
    mask = np.asarray(Image.open(tmp_path / "coffee_mask.png"))
    assert mask[150, 290] == 255 and mask[270, 365] == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["find", "--image", "nowhere.png", "--class_word", "face"], "picture not found: nowhere.png"),
        (["find", "--image", "{photo}"], "--class_word is missing"),
        (["find", "--image", "{photo}", "--class_word", "face"], "no face was found in"),
        (["find", "--image", "{photo}", "--class_word", "face", "--threshold", "2"], "mask.threshold is 2.0"),
        (["find", "--image", "{photo}", "--class_word", "face", "--backend", "sam"], "mask.backend is 'sam'"),
        (["find", "--image", "{photo}", "--class_word", "a=b", "--class_word", "a=c"], "two masks are named a"),
        (["find", "--image", "{photo}", "--class_word", "cat", "--preset", "fase"], "did you mean face"),
        (["batch", "--images", "nowhere", "--class_word", "face"], "folder of pictures not found: nowhere"),
        (["batch", "--images", "{folder}"], "no class word for chelsea.png"),
        (["batch", "--images", "{folder}", "--class_word", "a", "--output_dir", "{folder}"], "give another"),
    ],
)
def test_one_line_for_what_is_wrong(tmp_path, capsys, arguments, says):
    photo = write_photo("chelsea", tmp_path)
    assert main([a.format(photo=photo, folder=tmp_path) for a in arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and says in err and err.count("\n") == 1
    assert [p.name for p in tmp_path.iterdir()] == ["chelsea.png"], "nothing is left behind"


def test_several_named_masks(drawings, tmp_path, capsys):
    picture = next(p for p in drawings.iterdir() if not p.stem.endswith("face"))
    word = picture.stem.split("-")[1]
    command = [
        "find", "--image", str(picture), "--output_dir", str(tmp_path), "--backend", "mini",
        "--class_word", word, "--class_word", f"my-{word}={word}|hat",
    ]  # fmt: skip
    assert main(command) == 0
    said = capsys.readouterr()
    assert f"{word} and my-{word} overlap by 100% of the smaller one" in said.out
    # what to do next can be done: the preset for several, and the names by which training finds the masks
    learn = shlex.split(next(line for line in said.err.splitlines() if line.startswith("next: ")))
    assert learn[learn.index("--preset") + 1] == "scene" and f"data.handles={word},my-{word}" in learn
    values = {"data.image": str(picture), "data.mask": str(tmp_path / f"{picture.stem}_masks"), "data.overlap": "keep",
              "data.class_word": [word, word], "data.handles": [word, f"my-{word}"]}  # fmt: skip
    material = find_material(load_settings("scene", None, values), str)
    assert material.given[0].handles == (word, f"my_{word}")
    folder = tmp_path / f"{picture.stem}_masks"
    found = load_masks(folder)
    assert [each.name for each in found.masks] == [word, f"my-{word}"] and found.picture == picture.name
    assert (folder / "overlay.png").exists()
    assert main(command) == 2, "what may have been edited is not replaced"
    assert main([*command, "--overwrite", "--disjoint"]) == 2
    assert f"mask my-{word} without {word} is empty" in capsys.readouterr().err


def test_two_of_one_class_are_two_of_them_or_one_line(drawings, tmp_path, capsys):
    picture = next(p for p in drawings.iterdir() if not p.stem.endswith("face"))
    word = picture.stem.split("-")[1]
    command = ["find", "--image", str(picture), "--output_dir", str(tmp_path), "--backend", "mini"]
    assert main([*command, "--class_word", word, "--class_word", word]) == 2
    assert f"2 concepts are {word}, and in {picture} 1 was found" in capsys.readouterr().err
    assert main([*command, "--class_word", word, "--class_word", "hat", "--box", "1,2,30,40"]) == 2
    assert f"mask.box is for a single concept, and there are 2 ({word}, hat)" in capsys.readouterr().err


def test_a_folder_of_pictures(drawings, tmp_path, capsys):
    """A word each; one bad picture does not stop the rest; run again, it goes on with what is missing."""
    pictures, out = tmp_path / "in", tmp_path / "out"
    pictures.mkdir()
    for path in drawings.iterdir():
        (pictures / path.name).write_bytes(path.read_bytes())
    words = words_file(drawings, tmp_path)
    (pictures / "1-broken.png").write_bytes(b"not a picture")
    command = ["batch", "--images", str(pictures), "--class_words", str(words), "--class_word", "face"]
    command += ["--output_dir", str(out), "--backend", "mini"]
    assert main(command) == 1
    said = capsys.readouterr()
    names = sorted(p.stem for p in pictures.iterdir() if "broken" not in p.name)
    assert "1-broken.png: failed, " in said.out and "3 of 4 pictures have a mask" in said.out and "1 failed" in said.err
    assert sorted(p.stem for p in out.glob("*.png")) == names, "masks alone, by the pictures' names"
    assert {p.name for p in (out / "overlays").iterdir()} == {f"{n}.png" for n in names} | {
        "contact_sheet.png",
        "report.tsv",
    }
    rows = [line.split("\t") for line in (out / "overlays" / "report.tsv").read_text().splitlines()]
    assert rows[0] == ["picture", "class_word", "status", "source"] and [row[2] for row in rows[1:]].count("done") == 3

    # one mask is drawn by hand, another one thrown away, the broken picture is mended
    by_hand = Image.new("L", (64, 64))
    by_hand.paste(255, (0, 0, 30, 30))
    by_hand.save(out / f"{names[0]}.png")
    (out / f"{names[1]}.png").unlink()
    (pictures / "1-broken.png").unlink()
    time.sleep(0.01)
    assert main(command) == 0
    said = capsys.readouterr().out
    assert said.count(": kept, ") == 2 and said.count(": done, ") == 1
    assert Image.open(out / f"{names[0]}.png").tobytes() == by_hand.tobytes()
    overlay = np.asarray(Image.open(out / "overlays" / f"{names[0]}.png").convert("RGB")).astype(int)
    assert np.ptp(overlay[100, 100]) > 0 == np.ptp(overlay[300, 300]), "the overlay shows the mask that was drawn"

    for name in names:  # what came out pairs with the pictures: kohya's conditioning_data_dir, and our --mask FOLDER
        from singleinsert.masks import find_mask

        assert find_mask(load_picture(pictures / f"{name}.png"), "x", file=out).source.endswith(f"{name}.png")


def test_lists(tmp_path):
    with pytest.raises(Exception, match="holds no pictures"):
        list_pictures(tmp_path)
    for name in ("b.jpg", "a.PNG", "notes.txt"):
        Image.new("RGB", (4, 4)).save(tmp_path / name, format="PNG")
    (tmp_path / "more").mkdir()
    pictures, left_out = list_pictures(tmp_path)
    assert [p.name for p in pictures] == ["a.PNG", "b.jpg"]
    assert left_out == [f"{tmp_path}: left out: more/: folders in it are not looked into"]
    words = tmp_path / "words.toml"
    words.write_text('a = "cat"\n"b.jpg" = "dog"\n', encoding="utf-8")
    assert class_words(words, "", pictures) == {pictures[0]: "cat", pictures[1]: "dog"}
    words.write_text('c = "cat"\n', encoding="utf-8")
    with pytest.raises(Exception, match="there is no picture 'c'"):
        class_words(words, "face", pictures)
    words.write_text('b.jpg = "dog"\n', encoding="utf-8")  # TOML: a table b with a key jpg
    with pytest.raises(Exception, match="names with a dot in quotes"):
        class_words(words, "face", pictures)
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(Exception, match=r"a\.PNG and a\.jpg in .* would share one mask"):
        list_pictures(tmp_path)
