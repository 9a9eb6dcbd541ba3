"""`infer_singleinsert.py --edit`: from the command line to a photo of which parts were drawn anew."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from PIL import ImageChops
from PIL.Image import Image
from tqdm import tqdm

from singleinsert.artifact import Artifact
from singleinsert.data.pictures import Picture as Photo
from singleinsert.data.pictures import load_picture, solid
from singleinsert.errors import InputError
from singleinsert.inference.blended import NOISES, ORDERS, check_strength, edit_pictures
from singleinsert.inference.canvas import Canvas, Region, prepare_canvas
from singleinsert.inference.output import PictureFolder
from singleinsert.inference.pipeline import ConceptPipeline, Picture
from singleinsert.inference.prompts import PromptLine, resolve, slot, warn_of_prompt
from singleinsert.inference.setup import load_base, load_concepts, pick_device, plan
from singleinsert.masks.backends import Backends
from singleinsert.masks.candidates import GIVE_A_MASK
from singleinsert.masks.files import mask_from_file
from singleinsert.masks.find import find_mask
from singleinsert.metrics.backbones import load_clip
from singleinsert.metrics.regions import centred, mask_array
from singleinsert.metrics.scores import text_similarity
from singleinsert.models.family import Family

STRENGTH = 0.75
CLIP = "openai/clip-vit-base-patch32"
UNCHANGED = 6.0
"""Mean difference in levels of 255 under which an edit is called none: an SD autoencoder's own error is up to 5."""

ROOM = 0.1
"""By how much of the photo's shorter side a found mask is grown: it hugs the thing, whose rim would stay, and something
of another shape needs room."""

OTHER_KINDS = ("prompt_file", "prompt_list", "grid", "attention_maps")


def edit_photo(args: Namespace) -> None:
    """Check, load, draw, save, and say what to do next.

    Raises:
        InputError, ModelError: one line; before anything is drawn.
    """
    check_flags(args)
    strength = STRENGTH if args.edit_strength is None else args.edit_strength
    check_strength(strength)
    photo = load_picture(args.edit)
    masks = [_read_mask(photo, value) if kind == "file" else None for kind, value in args.edit_regions]
    concepts, weights = load_concepts(args.concept, allow_pickle=args.allow_pickle)
    candidates = pictures_of(args, concepts)
    model = load_base(args, concepts)
    regions = _regions(args, photo, masks, model)
    canvas = _canvas(args, model, photo.image, regions, concepts)
    pipeline = ConceptPipeline(
        model, concepts, weights, scheduler=args.scheduler, offload=args.offload,
        offload_device=pick_device(args.device),
    )  # fmt: skip
    if concepts:
        for region in regions:
            warn_of_prompt(region.prompt, pipeline.names)
    how = {"strength": strength, "order": args.edit_order or ORDERS[0], "noise": args.edit_noise or NOISES[0]}
    facts = how | {"photo": str(args.edit), "regions": [[value, r.prompt] for (_, value), r in
                   zip(args.edit_regions, regions, strict=True)]}  # fmt: skip
    drawn = _draw(args, pipeline, canvas, candidates, how)
    folder, after, change = PictureFolder(args.output_dir), dict[str, Image](), list[float]()
    for image, picture in tqdm(drawn, total=args.num_images, unit="picture", disable=None):
        change.append(canvas.change(image))
        path = folder.save(_with_alpha(image, photo, canvas), picture, pipeline, args.scheduler, facts)
        tqdm.write(str(path), file=sys.stdout)
        after[f"seed {picture.seed}"] = image
    print(folder.save_edit(photo.image, canvas.whole_mask, after))
    for line in advice(strength, change, candidates[-1].seed, args.edit_best):
        print(line)


def check_flags(args: Namespace) -> None:
    """InputError where flags do not go together."""
    for name in OTHER_KINDS:
        if getattr(args, name):
            hint = "before, mask and after come on a sheet anyway" if name == "grid" else "it draws whole pictures"
            raise InputError(f"--{name} does not go with --edit: {hint}")
    masks, prompts = len(args.edit_regions), len(args.prompt)
    if not masks:
        raise InputError("--edit without a place: give --edit_mask FILE, white where the photo may change, or "
                         "--edit_class_word WORD")  # fmt: skip
    if masks != prompts:
        what = "mask without a prompt" if masks > prompts else "prompt without a mask"
        raise InputError(f"{what}: there are {masks} masks and {prompts} prompts; give one --prompt for each mask, "
                         "in the same order")  # fmt: skip
    if args.edit_best is not None and args.edit_best < 2:
        raise InputError(f"--edit_best {args.edit_best}: the best of at least 2 can be kept")


def pictures_of(args: Namespace, concepts: Sequence[Artifact]) -> list[Picture]:
    """What to draw, seeds counting up: ``--num_images`` times the number of which the best is kept."""
    if args.num_images < 1:
        raise InputError(f"--num_images {args.num_images}: at least 1 is needed")
    wanted = Namespace(**{**vars(args), "num_images": args.num_images * (args.edit_best or 1)})
    return plan([PromptLine(", ".join(args.prompt))], wanted, concepts)[0]


def _read_mask(photo: Photo, file: str) -> Image:
    mask = mask_from_file(file, photo)
    if not solid(mask).getbbox():
        raise InputError(f"mask {file} is empty (nothing in it is brighter than half): white is what may change")
    return mask


def _regions(args: Namespace, photo: Photo, masks: Sequence[Image | None], model: Family) -> list[Region]:
    """Masks with their prompts; those of words are found now, by one set of models."""
    backends = Backends("mini" if is_mini(model) else "auto", device=args.device)
    opaque, regions = replace(photo, alpha=None), []
    try:
        for (_, word), mask, prompt in zip(args.edit_regions, masks, args.prompt, strict=True):
            if mask is None:
                found = find_mask(opaque, word, beside=False, padding=ROOM, backends=backends)
                print("\n".join(found.lines()))
                mask = found.mask
            regions.append(Region(mask, prompt))
    except InputError as problem:  # it speaks of the flags of training
        raise InputError(str(problem).replace(GIVE_A_MASK, "give the mask with --edit_mask FILE")) from problem
    finally:
        backends.close()
    return regions


def is_mini(model: Family) -> bool:
    """Whether it is a miniature, which has its own finder of masks and its own CLIP."""
    return model.model_name.startswith("mini-")


def _canvas(
    args: Namespace, model: Family, photo: Image, regions: Sequence[Region], concepts: Sequence[Artifact]
) -> Canvas:
    """Encoded before anything is offloaded: the pipeline's hooks know of decoding alone."""
    sides = [side for side in (args.width, args.height) if side is not None]
    if any(side < model.size_multiple for side in sides):
        raise InputError(f"a picture of {min(sides)} pixels cannot be drawn: {model.size_multiple} are the least")
    trained_at = concepts[0].metadata.get("resolution") if concepts else None
    area = (sides[0] * sides[-1]) ** 0.5 if sides else trained_at
    return prepare_canvas(model, photo, regions, resolution=round(area) if area else None)


def _draw(
    args: Namespace, pipeline: ConceptPipeline, canvas: Canvas, candidates: Sequence[Picture], how: dict[str, Any]
) -> Iterator[tuple[Image, Picture]]:
    """Pictures with what they were asked for; of each ``--edit_best`` candidates the best one."""
    images = edit_pictures(pipeline, canvas, candidates, batch_size=args.batch_size, **how)
    if not args.edit_best:
        return zip(images, candidates, strict=True)
    score = scorer(canvas, pipeline, args.device)

    def best() -> Iterator[tuple[Image, Picture]]:
        for start in range(0, len(candidates), args.edit_best):
            group = candidates[start : start + args.edit_best]
            drawn = [next(images) for _ in group]
            scores = [score(image) for image in drawn]
            first = max(range(len(group)), key=scores.__getitem__)
            yield drawn[first], group[first]

    return best()


def scorer(canvas: Canvas, pipeline: ConceptPipeline, device: str) -> Callable[[Image], float]:
    """Mean over the regions of CLIP's cosine between the masked crop and the prompt, class words for the concepts."""
    clip = load_clip("mini" if is_mini(pipeline.model) else CLIP, pick_device(device))
    prompts = [plain_words(region.prompt, pipeline) for region in canvas.regions]
    masks = [mask_array(region.mask) for region in canvas.regions]

    def score(image: Image) -> float:
        return sum(text_similarity(clip, [centred(image, mask) for mask in masks], prompts)) / len(masks)

    return score


def plain_words(prompt: str, pipeline: ConceptPipeline) -> str:
    """The prompt as who knows no concept reads it: "* face" and "{concept}" are "face"."""
    text = resolve(prompt, pipeline.names)
    for index, name in enumerate(pipeline.names):
        text = text.replace(f"{slot(index)} {name.class_word}", name.class_word).replace(slot(index), name.class_word)
    return text


def _with_alpha(image: Image, photo: Photo, canvas: Canvas) -> Image:
    """With the photo's transparency, where it has any; what was drawn is seen."""
    if photo.alpha is None:
        return image
    out = image.copy()
    out.putalpha(ImageChops.lighter(photo.alpha, canvas.whole_mask))
    return out


def advice(strength: float, change: Sequence[float], last_seed: int, best: int | None) -> list[str]:
    """What to do next."""
    lines = []
    if max(change) < UNCHANGED:
        raised = f"try --edit_strength {min(1, strength + 0.15):g}" if strength < 1 else "try another prompt"
        lines.append(f"inside the mask hardly anything changed (by {max(change):.1f} of 255): {raised}")
    lines.append(
        f"next: other tries with --seed {last_seed + 1} --num_images 4"
        + ("" if best else ", the best of four with --edit_best 4")
        + "; a freer hand with a higher --edit_strength, closer to the photo with a lower one"
    )
    return lines
