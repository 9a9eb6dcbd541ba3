"""Break-A-Scene's set of scenes from COCO (section 4.1, supplement B.2), made from a user's own copy of it.

The paper crops each picture to a square, keeps those with at least two segments of distinct things that cover 15
percent of it or more, leaves out six classes whose members cannot be told apart, and has 50 scenes. It says neither
where the square is cut nor which pictures it took. Here the square is the middle one, a class's largest segment is its
concept, and pictures are taken in the order of their numbers, those with a new combination of classes first.

Outlines are read without pycocotools: it is compiled code of which two small functions would be used, for polygons and
run lengths, and both are below.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from singleinsert.atomic import write_atomically, write_text
from singleinsert.config.load import toml_string
from singleinsert.data.opening import open_picture
from singleinsert.errors import InputError, first_line
from singleinsert.reading import read_json

LEAST_SHARE = 0.15
LEFT_OUT = frozenset({"orange", "banana", "broccoli", "carrot", "zebra", "giraffe"})
SCENES = 50
MOST_CONCEPTS = 4
"""Of a scene, the largest: as many as the paper shows in one picture."""
LIST = "concepts.toml"
FINE = 4
"""Polygons are drawn so many times as large."""


@dataclass(frozen=True)
class CocoScene:
    """A picture's middle square, and the boolean mask (side, side) of each class in it, the largest first.

    ``size``: (width, height) of the whole picture, by its annotation.
    """

    file: str
    number: int
    size: tuple[int, int]
    box: tuple[int, int, int, int]
    masks: Mapping[str, np.ndarray]


def build_set(annotations: Path, images: Path, out: Path, count: int = SCENES) -> list[str]:
    """Write the scenes' pictures and masks and ``concepts.toml`` into ``out``, for ``evaluate scenes --concepts``.

    Returns:
        a line for each scene.

    Raises:
        InputError: a file that is none of COCO's, a picture that is missing, no scene at all; one line.
    """
    scenes = choose(find_scenes(read_annotations(annotations)), count)
    if not scenes:
        raise InputError(f"{annotations}: no picture shows two things of {LEAST_SHARE:.0%} each in its middle square")
    for scene in scenes:
        if not (images / scene.file).is_file():
            raise InputError(f"{images / scene.file} is missing: --images names the folder of {annotations}'s pictures")
    lines, rows = [], ["# Break-A-Scene's set of scenes from COCO: square pictures and their masks."]
    for scene in scenes:
        name = f"coco{scene.number:012d}"
        picture = open_picture(images / scene.file).convert("RGB")
        if picture.size != scene.size:
            (w, h), (aw, ah) = picture.size, scene.size
            raise InputError(
                f"{images / scene.file} is {w}x{h}, its outlines are of {aw}x{ah}: take the pictures as COCO has them"
            )
        files = {f"{name}.png": picture.crop(scene.box)}
        for k, mask in enumerate(scene.masks.values()):
            files[f"{name}_{k}_mask.png"] = Image.fromarray(mask.astype(np.uint8) * 255)
        for file, image in files.items():
            write_atomically(out / file, lambda target, image=image: image.save(target, "PNG"))  # type: ignore[misc]
        masks = ", ".join(toml_string(file) for file in list(files)[1:])
        words = ", ".join(toml_string(word) for word in scene.masks)
        rows += ["", "[[job]]", f'name = "{name}"', f'image = "{name}.png"']
        rows += [f"mask = [{masks}]", f"class_word = [{words}]"]
        shares = ", ".join(f"{word} {mask.mean():.0%}" for word, mask in scene.masks.items())
        lines.append(f"{scene.file}: {shares}")
    write_text(out / LIST, "\n".join(rows) + "\n")
    return lines


def read_annotations(path: Path) -> dict[str, Any]:
    """COCO's instances file. InputError where it is none."""
    table = read_json(path, InputError)
    if not isinstance(table, dict) or not all(isinstance(table.get(k), list) for k in ("images", "annotations")):
        raise InputError(f"{path} holds no images and annotations: give COCO's instances_val2017.json or one like it")
    if not isinstance(table.get("categories"), list):
        raise InputError(f"{path} holds no categories: give COCO's instances_val2017.json or one like it")
    return table


def find_scenes(table: Mapping[str, Any]) -> Iterator[CocoScene]:
    """Every picture that fits, in the order of the pictures' numbers. InputError for an annotation that is damaged."""
    try:
        names = {int(c["id"]): str(c["name"]) for c in table["categories"]}
        of_image: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
        for annotation in table["annotations"]:
            if not annotation.get("iscrowd") and names[int(annotation["category_id"])] not in LEFT_OUT:
                of_image[int(annotation["image_id"])].append(annotation)
        for image in sorted(table["images"], key=lambda row: int(row["id"])):
            found = _scene(image, of_image[int(image["id"])], names)
            if found is not None:
                yield found
    except (KeyError, TypeError, ValueError, IndexError) as problem:
        raise InputError(f"the annotations are not COCO's: {type(problem).__name__} {first_line(problem)}") from problem


def _scene(image: Mapping[str, Any], rows: Iterable[Mapping[str, Any]], names: Mapping[int, str]) -> CocoScene | None:
    width, height = int(image["width"]), int(image["height"])
    box = middle_square(width, height)
    side = box[2] - box[0]
    masks: dict[str, np.ndarray] = {}
    for row in rows:
        if float(row.get("area", side**2)) < LEAST_SHARE * side**2:
            continue  # too small even before it is cut
        word = names[int(row["category_id"])]
        mask = segment_mask(row["segmentation"], width, height)[box[1] : box[3], box[0] : box[2]]
        if mask.mean() >= LEAST_SHARE and (word not in masks or mask.sum() > masks[word].sum()):
            masks[word] = mask
    if len(masks) < 2:
        return None
    largest = sorted(masks, key=lambda word: -int(masks[word].sum()))[:MOST_CONCEPTS]
    return CocoScene(
        str(image["file_name"]), int(image["id"]), (width, height), box, {word: masks[word] for word in largest}
    )


def choose(scenes: Iterable[CocoScene], count: int) -> list[CocoScene]:
    """The first with each combination of classes, then the others, as many as are wanted; by their numbers."""
    first: dict[frozenset[str], CocoScene] = {}
    others = []
    for scene in scenes:
        key = frozenset(scene.masks)
        if key in first:
            others.append(scene)
        else:
            first[key] = scene
    return sorted([*first.values(), *others][:count], key=lambda scene: scene.number)


def middle_square(width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of the largest square in the middle."""
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def segment_mask(segmentation: Any, width: int, height: int) -> np.ndarray:
    """Boolean (height, width) of COCO's polygons, run lengths, or compressed run lengths.

    A pixel is inside a polygon if half of it is. COCO's own code differs in single pixels of the edge.
    """
    if isinstance(segmentation, list):
        canvas = Image.new("L", (width * FINE, height * FINE))
        for polygon in segmentation:
            corners = [(x * FINE, y * FINE) for x, y in zip(polygon[::2], polygon[1::2], strict=True)]
            ImageDraw.Draw(canvas).polygon(corners, fill=255)
        return np.asarray(canvas.reduce(FINE)) >= 128
    counts, (rows, columns) = segmentation["counts"], segmentation["size"]
    runs = decompress(counts) if isinstance(counts, str) else counts
    return mask_of_runs(runs, int(rows), int(columns))


def mask_of_runs(runs: Sequence[int], height: int, width: int) -> np.ndarray:
    """Runs of outside and inside by turns, down the columns. ValueError where they do not fill the picture."""
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return flat.reshape(width, height).T


def decompress(text: str) -> list[int]:
    """COCO's text of run lengths: five bits a letter, from the lowest, the sixth says that more follow; from the fourth
    number on each is the difference to the one before the last."""
    runs: list[int] = []
    value = shift = 0
    for letter in text:
        code = ord(letter) - 48
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:  # negative: fill the bits above
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    return runs
