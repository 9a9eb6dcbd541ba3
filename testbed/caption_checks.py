"""What the checks of captions are worth on drawn pictures, where every right and wrong word is known.

    python -m testbed.caption_checks                 the tables of docs/research/captions.md: 400 captions, 40 pictures
    python -m testbed.caption_checks --pictures 4    quicker

The words: captions that name all of a subject's features (leaks) and everything else. rho: faces in a hat, with one
phrase of the caption replaced by a wrong one.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter, defaultdict
from collections.abc import Iterator

from singleinsert.captions.phrases import Phrase, split_caption
from singleinsert.captions.rho import frozen_errors, phrase_rhos
from singleinsert.data.captions import with_concept
from singleinsert.models.bundled import MINI_SD
from singleinsert.models.family import Family
from singleinsert.models.loading import load_base_model

from .dataset import HELD_OUT_START
from .world.captions import BACKGROUND_WORDS, full_caption, instance_words
from .world.features import BACKGROUNDS, EDITS, EDITS_OF
from .world.scene import Instance, Scene, draw

FACES = 1_000_000


def judged_words(count: int) -> Counter[tuple[bool, bool]]:
    """(does the phrase tell of the subject's features, is it called subject) -> how many phrases."""
    found: Counter[tuple[bool, bool]] = Counter()
    scenes = (Scene.from_seed(HELD_OUT_START + number) for number in range(10 * count))
    for scene in [scene for scene in scenes if len(scene.instances) == 1][:count]:
        subject = scene.instances[0]
        features = [name for name, value in subject.features.items() if isinstance(value, str)]
        own = {word for part in instance_words(subject, features) for words in part for word in words.split()}
        caption = with_concept(full_caption(scene, features), subject.cls)
        for phrase in split_caption(caption, subject.cls):
            found[_tells_of(phrase, own), phrase.role == "subject"] += 1
    return found


def _tells_of(phrase: Phrase, own: set[str]) -> bool:
    """Whether it names a feature; a worn thing's colour may be one of the subject's words too."""
    return phrase.text.split()[0] not in ("wearing", "in", "on") and bool(own & set(phrase.text.split()))


def judged_rho(base: Family, count: int) -> dict[tuple[str, str], list[bool]]:
    """(which phrase was replaced, or "none"; the phrase that is judged) -> whether rho called it wrong."""
    found: dict[tuple[str, str], list[bool]] = defaultdict(list)
    for number in range(count):
        scene, captions = _face_in_a_hat(number)
        error_of = frozen_errors(base, draw(scene, masks=False).image, 64, seed=number)
        for replaced, caption in captions:
            phrases = split_caption(caption, "face")
            names = {"state": "expression", "worn": "hat", "thing": "place"}
            for phrase, rho in zip(phrases, phrase_rhos(error_of, caption, phrases, "face"), strict=True):
                found[replaced, names[phrase.role]].append(rho.is_wrong)
    return found


def _face_in_a_hat(number: int) -> tuple[Scene, list[tuple[str, str]]]:
    """A scene, its right caption, and four with one wrong phrase each."""
    rng = random.Random(f"caption-checks-{number}")
    edits = {name: "none" if "none" in EDITS[name] else EDITS[name][0] for name in EDITS_OF["face"]}
    drawn = {"hat": _but(rng, "hat", "none"), "hat_color": rng.choice(EDITS["hat_color"]),
             "expression": _but(rng, "expression", "neutral")}  # fmt: skip
    place = rng.choice(BACKGROUNDS)
    scene = Scene((Instance.from_seed(FACES + number, "face"),), (edits | drawn,), place, "photo", "front", number)

    def caption(place: str = place, **changed: str) -> str:
        said = drawn | changed
        hat = f"wearing a {said['hat_color']} {said['hat']}"
        return f"a photo of a {said['expression']} {{concept}} {hat} {BACKGROUND_WORDS[place][0]}"

    return scene, [
        ("none", caption()),
        ("hat", caption(hat=_but(rng, "hat", "none", drawn["hat"]))),
        ("hat's colour", caption(hat_color=_but(rng, "hat_color", drawn["hat_color"]))),
        ("expression", caption(expression=_but(rng, "expression", "neutral", drawn["expression"]))),
        ("place", caption(place=rng.choice([name for name in BACKGROUNDS if name != place]))),
    ]


def _but(rng: random.Random, name: str, *not_these: str) -> str:
    return rng.choice([value for value in EDITS[name] if value not in not_these])


def lines(captions: int, pictures: int) -> Iterator[str]:
    """The two tables, Markdown."""
    words = judged_words(captions)
    leaks, others = words[True, True] + words[True, False], words[False, True] + words[False, False]
    yield f"words: {words[True, True]} of {leaks} leaking phrases found, {words[False, True]} of {others} others too"
    found = judged_rho(load_base_model(MINI_SD), pictures)
    yield "| wrong in the caption | " + " | ".join(f"{name} flagged" for name in ("hat", "expression", "place")) + " |"
    yield "|---|---|---|---|"
    for replaced in ("none", "hat", "hat's colour", "expression", "place"):
        shares = (found[replaced, name] for name in ("hat", "expression", "place"))
        yield f"| {replaced} | " + " | ".join(f"{sum(each) / len(each):.0%}" for each in shares) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--captions", type=int, default=400, metavar="N", help="captions whose words are judged")
    parser.add_argument("--pictures", type=int, default=40, metavar="N", help="pictures on which rho is tried")
    args = parser.parse_args()
    for line in lines(args.captions, args.pictures):
        print(line, flush=True)


if __name__ == "__main__":
    main()
