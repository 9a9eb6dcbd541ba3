"""The word lists that the rules go by. English; what no list has is kept, and shown."""

from __future__ import annotations

DETERMINERS = frozenset(
    "a an the this that these those some one two three four five several many his her its their".split()
)
POSSESSIVES = frozenset("his her its their whose".split())

BODY = frozenset(
    "hair fur skin eye eyes eyebrow eyebrows eyelashes nose ear ears mouth lips cheeks chin forehead beard "
    "mustache moustache freckles wrinkles dimples teeth whiskers snout muzzle beak feathers wing wings mane tail "
    "paws paw legs hooves horns antlers spots stripes patches markings complexion jaw neck body build fringe "
    "bangs braids ponytail bun curls hairstyle haircut scales shell face head features".split()
)
"""Parts of an animal, a person or a doll: a subject's own looks."""

PARTS = frozenset(
    "handle handles wheels wheel spout rim lid label logo strap straps zipper pocket pockets leaves branches "
    "trunk petals stem roof windows window doors door hood bumper headlights base buttons stitching pattern "
    "texture surface lettering rims tyres tires frame lenses temples sole laces bottom".split()
)
"""Parts of a thing: its own looks, where the subject is a thing."""

LIVING = frozenset(
    "face head person man woman boy girl child kid baby people human hair cat kitten dog puppy bird horse animal "
    "pet rabbit bunny hamster fish lion tiger bear fox cow sheep goat pig mouse rat parrot owl duck".split()
)
WITH_EXPRESSION = frozenset(
    "face head person man woman boy girl child kid baby people human cat kitten dog puppy".split()
)
STYLES = frozenset("art style".split())
"""Class words of a style: everything that is to be seen is said, and nothing of how it is painted."""

STYLE_LOOKS = frozenset(
    "watercolor watercolour oil acrylic brush brushstrokes strokes impressionist impressionistic cubist abstract "
    "pastel palette textured impasto outlines cartoonish sketchy stylized painterly minimalist style pixel "
    "pixelated anime charcoal ink linework".split()
)

VIEW = frozenset(
    "view viewed seen side profile front frontal back rear above below angle close-up closeup portrait headshot "
    "full-length half-length cropped".split()
)
STATE = frozenset(
    "sitting seated standing lying laying lies sits stands looking looks facing faces running runs walking "
    "jumping leaning resting sleeping asleep crouching kneeling squatting posing posed pose turned turning tilted "
    "tilting upright curled stretched stretching reaching smiling laughing grinning frowning crying surprised "
    "happy sad angry serious calm neutral winking yawning pouting shouting talking eating drinking playing parked "
    "driving moving flying floating hanging tipped expression smile grin frown gaze gazing playful relaxed alert "
    "bored thoughtful open opened closed shut centered".split()
)
"""Pose, view and expression: the subject's state at this moment, which is to be said."""

STATE_OF_PART = frozenset(
    "open opened closed shut raised crossed folded tilted outstretched lowered turned half-closed wide-open "
    "pricked perked hanging".split()
)
"""Before or after a part of the body: its pose and not its looks."""

LIGHT = frozenset(
    "light lighting lit sunlight daylight moonlight lamplight candlelight shadow shadows sunset sunrise dusk dawn "
    "night evening morning afternoon noon backlit overcast sunny dim spotlight glow".split()
)

CLOTHES = frozenset(
    "hat cap beanie helmet crown scarf glasses sunglasses goggles shirt t-shirt tshirt sweater jumper hoodie "
    "jacket coat dress skirt suit tie bow collar harness necklace earrings ring gloves mittens jeans trousers "
    "pants shorts shoes boots uniform costume apron vest mask headband ribbon bandana cape robe clothes clothing "
    "outfit attire turban veil".split()
)

WEARING = ("wearing", "holding", "carrying", "containing", "dressed in", "filled with", "full of", "covered with",
           "covered in", "wrapped in", "decorated with", "wears", "holds", "carries", "contains")  # fmt: skip
HAVING = ("with", "has", "having", "whose", "featuring", "is", "are", "its", "his", "her", "their")
PLACING = ("in front of", "on top of", "in the middle of", "surrounded by", "next to", "close to", "made of", "before",
           "beside",
           "behind", "under", "underneath", "against", "near", "on", "in", "at", "by", "over", "above", "below",
           "inside", "outside", "between", "among", "around", "through", "from", "beneath", "atop", "amid", "along",
           "across", "into", "onto", "toward", "towards", "while", "that", "which", "who", "as")  # fmt: skip

HEDGES = (
    "appears", "appear", "appearing", "seems", "seem", "possibly", "probably", "perhaps", "maybe", "might", "may be",
    "could be", "likely", "apparently", "suggesting", "suggests", "some kind of", "some sort of",
)  # fmt: skip
META = ("image", "picture shows", "photo shows", "photograph shows", "the photo", "this photo", "the picture",
        "this picture", "in the background there", "can be seen", "we see", "we can see", "the scene",
        "depicts")  # fmt: skip
NEGATIONS = (
    "no",
    "not",
    "without",
    "none",
    "nothing",
    "neither",
    "nor",
    "never",
    "isn't",
    "aren't",
    "doesn't",
    "lacks",
)
