"""mini-sd's own vocabulary: every word of the world's captions and of the prompt lists is one token."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path

from tokenizers import pre_tokenizers
from transformers import CLIPTokenizer

from .world.captions import BACKGROUND_WORDS, STYLE_WORDS, VIEW_WORDS
from .world.features import CLASSES, EDITS, INSTANCE

MAX_LENGTH = 48
EXTRA_WORDS = """
* < > , . ! ? ' " - : ; ( ) & a an the and or of on in at to by for from with without under over above below
behind near next
between inside around front back left right side top bottom view seen close up frontal
photo picture image drawing painting oil watercolor sketch poster portrait sticker statue toy book frame wall
street road
wearing holding sitting standing walking running swimming sleeping playing looking
person man woman girl boy people friend two three many one this that his her its my
hat cap beanie glasses sunglasses scarf hair beard moustache clothes shirt jacket dress boots shoes ear ears
eye eyes nose mouth
head face cat dog cup mug car truck bus tree house flower bird fish table chair sofa pool forest park garden
room kitchen
mountain river lake sea sky sun moon star rain night day winter summer spring autumn sand grass ice fire
red orange yellow green blue purple pink black white brown gray teal golden silver dark light bright pale
colorful plain
small big large tiny huge long short tall wide round square oval pointed old young new happy angry smiling sad
surprised neutral
steaming spotted striped dotted patched freckled bearded moustached bald curly spiky straight heart fruits
apples
vase shape sedan van pickup skin fur color floor fabric wooden wood stone metal glass
police uniform beret selfie tattoo funko pop style art pixel pencil
concept thing object pet animal background scene full body
""".split()


def words() -> list[str]:
    """Every word that must be one token, in a fixed order."""
    out = list(EXTRA_WORDS)
    for group in (BACKGROUND_WORDS, STYLE_WORDS):
        for phrases in group.values():
            out += " ".join(phrases).split()
    out += " ".join(VIEW_WORDS.values()).split() + list(CLASSES)
    for table in (EDITS, *INSTANCE.values()):
        for values in table.values():
            out += " ".join(values).split()
    return list(dict.fromkeys(w for w in out if w))


def learn_merges(vocabulary: list[str], end: str = "</w>") -> list[tuple[str, str]]:
    """Byte-pair merges that make every word one token: the most frequent pair first, ties in alphabetical order. `end`
    marks a word's last letter.

    The library's trainer breaks ties differently from run to run, which would renumber the tokens of a model
    that is being trained.
    """
    spelled = [[*word[:-1], word[-1] + end] for word in vocabulary]
    merges: list[tuple[str, str]] = []
    while True:
        counts = Counter(pair for word in spelled for pair in pairwise(word))
        if not counts:
            return merges
        first, second = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append((first, second))
        for word in spelled:
            for i in range(len(word) - 2, -1, -1):
                if word[i : i + 2] == [first, second]:
                    word[i : i + 2] = [first + second]


def build_tokenizer(folder: Path) -> CLIPTokenizer:
    """CLIP's byte-level tokenizer with the world's words, saved in `folder`; the same ids every time."""
    merges = learn_merges(words())
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(c + "</w>" for c in alphabet), *sorted({a + b for a, b in merges})]
    vocab = {token: i for i, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_LENGTH)
    tokenizer.save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)


def check(tokenizer: CLIPTokenizer) -> None:
    """Every word is one token and none is unknown."""
    for word in words():
        ids = tokenizer(word).input_ids
        if len(ids) != 3:
            raise AssertionError(f"{word!r} is {len(ids) - 2} tokens")
