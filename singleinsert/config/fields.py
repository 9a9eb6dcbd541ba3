"""Every setting: its type, default, range and meaning, declared once. ``docs/configuration.md`` is made from here."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from singleinsert.config.declare import setting
from singleinsert.config.run import RunSettings
from singleinsert.config.stage import StageSettings
from singleinsert.errors import ConfigError
from singleinsert.names import safe_trigger
from singleinsert.terms import STAGES, WEIGHT_ROLES, Format, Precision


@dataclass(frozen=True)
class ModelSettings:
    """The base model that the concept goes into."""

    pretrained_model_name_or_path: str = setting(
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "SD 1.x, 2.x, SDXL, FLUX.2 klein base, Z-Image: folder in diffusers' layout, hub id, .safetensors file (of the "
        "last two the transformer's, those of text encoder and VAE behind commas); or mini-sd, which is bundled",
        path=True,
    )
    revision: str = setting("", "branch, tag or commit on the hub")
    variant: str = setting("", "variant of the weight files, such as fp16")
    prediction_type: Literal["auto", "epsilon", "v_prediction", "sample"] = setting(
        "auto", "what the denoiser predicts; auto: what the model's scheduler config says"
    )
    timestep_shift: float = setting(
        0.0, "flow models: s = shift u / (1 + (shift - 1) u) are the noise levels of training for uniform u; 0: the "
        "family's own, 2 for klein and Z-Image. With loss_space x0 at most 2; with v trainers use about 3", minimum=0,
        maximum=20, loaded=True, off=0.0,
    )  # fmt: skip


@dataclass(frozen=True)
class DataSettings:
    """The pictures, what they show, and the words for it."""

    image: tuple[str, ...] = setting(
        (), "the picture to learn from; several, or a folder, are photos of the same concept", free=True, several=True,
        path=True,
    )  # fmt: skip
    mask: tuple[str, ...] = setting(
        (), "mask file of the picture's size, white is the subject: one for each picture, or of one picture for each "
        "class word; or a folder of masks by the pictures' names, or, of several concepts, a folder of named masks for "
        "each picture; empty: NAME_mask.png beside the picture, else its alpha channel, else the mask is found",
        free=True, several=True, path=True,
    )  # fmt: skip
    class_word: tuple[str, ...] = setting(
        (), "class of the subject, such as face or cat; several words are several concepts of the picture, with an "
        "embedding each", several=True,
    )  # fmt: skip
    handles: tuple[str, ...] = setting(
        (), "names of the concepts in prompts, where there are several; empty: their class words, numbered where two "
        "are equal",
    )  # fmt: skip
    learn_background: bool = setting(False, "learn what no mask covers as one more concept, called background")
    overlap: Literal["disjoint", "keep"] = setting(
        "disjoint", "where the masks of two concepts overlap: disjoint, the smaller one gets the pixels; keep, both do"
    )
    placeholder_token: str = setting("*", "the word in prompts that stands for the concept")
    prompt: str = setting(
        "{placeholder} {class_word}",
        "training prompt with the concept (y* in the paper), for pictures without a description",
    )
    class_prompt: str = setting("{class_word}", "the same prompt without the concept, used for the frozen model")
    description: tuple[str, ...] = setting(
        (), "what the picture shows besides the subject, with {concept} in the subject's place, one for each picture; "
        "empty: the first line of photo.txt beside photo.jpg, if there is one, or as [caption] says", several=True,
        free=True,
    )  # fmt: skip
    resolution: int = setting(512, "side of the training picture in pixels", minimum=32, maximum=4096)
    crop: Literal["mask", "zoom", "center", "pad"] = setting(
        "mask",
        "how a picture becomes square: mask, the largest square, moved to hold the subject, and wider than the picture "
        "if the subject is; zoom, the subject and crop_padding around it; center, the largest square in the middle; "
        "pad, the whole picture, extended at its edges",
    )
    crop_padding: float = setting(
        0.5, "zoom: margin on each side, as a share of the subject's longer side", minimum=0, maximum=10
    )

    @property
    def can_be_described(self) -> bool:
        """Is a single concept learnt, without the background? Prompts of several have no place for a description."""
        return len(self.class_word) == 1 and not self.learn_background


@dataclass(frozen=True)
class MaskSettings:
    """How the mask is found where ``data.mask`` names none. Lengths are shares of the picture's shorter side."""

    backend: Literal["auto", "alpha", "grounded", "original", "cascade", "grabcut", "mini"] = setting(
        "auto",
        "auto: alpha channel, then GroundingDINO and SAM if they can be had, then a face cascade; grounded: those "
        "models on transformers; original: their own packages and .pth files; cascade: faces, by opencv; grabcut: for "
        "a box and points; mini: the miniature's segmenter, for drawings only",
    )
    prompt: str = setting("", "what to look for, each phrase ended by a full stop; empty: the class word")
    subtract: tuple[str, ...] = setting((), 'parts to cut away, such as "face" for hair')
    mask_index: int = setting(-1, "which candidate, counted from 0; -1: the best", minimum=-1, maximum=1000)
    merge: bool = setting(False, "take all candidates together, such as both shoes of a pair")
    box: tuple[float, ...] = setting((), "left, top, right, bottom in pixels: outline what is inside, without a search")
    points: tuple[str, ...] = setting((), '"x,y" in pixels on the subject, "x,y,0" not on it, with or without a box')
    threshold: float = setting(0.35, "least score of a candidate", minimum=0, maximum=1)
    detector: str = setting(
        "", "GroundingDINO: folder or hub id, or for original a .pth; empty: grounding-dino-tiny", path=True
    )
    segmenter: str = setting(
        "", "SAM, SAM-HQ, SAM 2: folder or hub id, or for original a .pth; empty: sam-vit-base", path=True
    )
    smooth: float = setting(0.003, "radius of the clean-up of thin lines and cracks; 0: off", minimum=0, maximum=0.1)
    fill_holes: bool = setting(True, "make background that the subject encloses part of it")
    min_part: float = setting(
        0.05, "drop pieces smaller than this share of the largest; 1: keep one piece; 0: all", minimum=0, maximum=1
    )
    padding: float = setting(0.0, "grow the mask by this much; below 0, shrink it", minimum=-0.5, maximum=0.5)
    feather: float = setting(0.0, "softness of the edge: standard deviation of a blur", minimum=0, maximum=0.25)


@dataclass(frozen=True)
class CaptionSettings:
    """The sentence that says everything in the picture but the subject (SID), so that it stays out of the concept."""

    describe: str = setting(
        "", "who writes it: vlm:MODEL (hub id or folder), openai:URL#MODEL, or words:red hat, beach; a file photo.txt "
        "beside photo.jpg is used instead", free=True,
    )  # fmt: skip
    instruction: str = setting(
        "", "instruction to the model instead of the built-in one; {class_word} stands for the class word", free=True
    )
    mode: Literal["auto", "off", "O1", "O2", "O3", "O4", "O5"] = setting(
        "auto", "which prompts of training say it: auto, as O2 if there is a description; off, none; O1, the "
        "concept's; O2, all; O3, all, but the semantic term's every second time; O4, as O3 always, without what the "
        "mask leaves out; O5, as O2, and things that the subject wears or holds are cut out of its mask",
    )  # fmt: skip
    drop: float = setting(0.0, "share of the samples that are trained without it", minimum=0, maximum=1)
    keep: bool = setting(True, "the artifact holds the description", free=True)


@dataclass(frozen=True)
class ConceptSettings:
    """What gives the concept's embedding."""

    type: Literal["vit", "clip_vit", "vector"] = setting(
        "vit",
        "vit: image encoder with random first weights (the paper's code); clip_vit: with CLIP's; vector: no encoder",
    )
    residual: bool = setting(False, "start at the class word's own embedding and learn the difference")
    num_vectors: int = setting(1, "embedding vectors of the concept, each a token of the prompt", minimum=1, maximum=64)
    image_size: int = setting(224, "side in pixels of the picture the encoder sees", minimum=8, maximum=1024)
    patch_size: int = setting(32, "vit: side of a patch in pixels", minimum=1, maximum=256)
    hidden_size: int = setting(768, "vit: width", minimum=8, maximum=4096)
    num_hidden_layers: int = setting(12, "vit: layers", minimum=1, maximum=64)
    num_attention_heads: int = setting(12, "vit: heads", minimum=1, maximum=64)
    clip_model: str = setting("openai/clip-vit-base-patch32", "clip_vit: folder or hub id of the CLIP model", path=True)
    init_std: float = setting(
        1.0, "standard deviation per element of the first embedding; with residual, of the first difference: 0.02 "
        "starts close to the class word",
        minimum=0, maximum=100,
    )  # fmt: skip


@dataclass(frozen=True)
class AdapterSettings:
    """What changes the weights in stages that train denoiser or text."""

    type: str = setting(
        "lora", "kind of adapter: lora; tlora, one whose rank falls with noise (T-LoRA), which clients' files cannot "
        "say; full, the weights themselves; kv, keys and values of cross-attention in full (Custom Diffusion); svd, "
        "shifts of singular values (SVDiff). The last three are exported as the closest LoRA of rank network_dim",
    )  # fmt: skip
    network_dim: int = setting(4, "rank", minimum=1, maximum=1024)
    network_alpha: float = setting(4.0, "scale: the update is multiplied by alpha / rank", minimum=1e-3)
    min_rank: int = setting(1, "tlora: rank at the highest noise", minimum=1, maximum=1024, off=1)
    rank_power: float = setting(
        1.0, "tlora: the rank above min_rank falls as ((T - t) / T) to this power", minimum=0, maximum=8, off=1.0
    )
    denoiser_targets: tuple[str, ...] = setting(
        (), "layers of the denoiser, by the end of their path; empty: the adapter's own (lora: all attention layers)"
    )
    text_targets: tuple[str, ...] = setting(
        (), "layers of the text encoders, by the end of their path; empty: the adapter's own"
    )


@dataclass(frozen=True)
class PriorSettings:
    """The pictures of the class for the prior term of DreamBooth. Without ``prior_weight`` they have no effect."""

    prompt: str = setting(
        "a photo of a {class_word}", "what they are drawn with, and trained with", off="a photo of a {class_word}"
    )
    pictures: int = setting(200, "how many", minimum=1, maximum=10000, off=200)
    folder: str = setting(
        "", "folder of pictures to use as they are, such as photos; empty: the base model draws them once, and they "
        "are kept in output/class-pictures", path=True, off="",
    )  # fmt: skip
    num_inference_steps: int = setting(50, "DDIM steps", minimum=1, maximum=1000, off=50)
    guidance_scale: float = setting(7.5, "classifier-free guidance", minimum=0, maximum=100, off=7.5)


@dataclass(frozen=True)
class SceneSettings:
    """How several concepts of a picture are trained together. With one concept these settings have no effect."""

    subset: Literal["size", "subset", "one", "all"] = setting(
        "size", "which subjects a sample names: size, their number is drawn first (Break-A-Scene); subset, every "
        "subset is equally likely; one, a single subject; all",
    )  # fmt: skip
    prompt: str = setting(
        "a photo of {concepts}", "training prompt; {concepts} are the phrases of the named subjects, joined"
    )
    phrase: str = setting("a {placeholder} {class_word}", "how a subject is named; in the paper {placeholder} alone")
    joiner: str = setting(" and ", "what stands between two phrases")
    steps_for: int = setting(
        0, "concepts that the stages' steps are meant for: with more, steps that neither the config file nor the "
        "command line gives grow in proportion; 0: steps are as they stand",
        minimum=0, maximum=8, free=True,
    )  # fmt: skip
    flip: bool = setting(
        False, "also learn from the mirrored picture, as the paper's code does; left and right get mixed up"
    )
    mixes: int = setting(
        0, "additional training pictures, made of the subjects' cut-outs, moved and scaled", minimum=0, maximum=256
    )  # fmt: skip
    mix_share: float = setting(0.3, "share of the samples that see such a picture", minimum=0, maximum=1)
    collection: int = setting(
        0, "learn from this many pictures of random subsets on plain colours instead of the picture itself, as the "
        "paper does for its baselines",
        minimum=0, maximum=256,
    )  # fmt: skip


@dataclass(frozen=True)
class SampleSettings:
    """Pictures drawn during training and for the final sheet."""

    steps_interval: int = setting(
        0, "steps between samples; 0: the first prompt after a third of each stage, and all at its end", minimum=0
    )
    prompts: tuple[str, ...] = setting(
        ("{concept}", "{concept} in the snow", "{concept} on the beach", "a painting of {concept}"),
        "prompts of the sheet; {concept} is placeholder and class word, * the placeholder alone", several=True,
    )  # fmt: skip
    num_inference_steps: int = setting(50, "sampling steps (DDIM; Euler for flow models)", minimum=1, maximum=1000)
    guidance_scale: float = setting(7.5, "classifier-free guidance", minimum=0, maximum=100)
    seed: int = setting(0, "seed of the first picture, the next ones count up", minimum=0, maximum=2**32 - 1)
    images_per_prompt: int = setting(1, "pictures per prompt", minimum=1, maximum=64)


@dataclass(frozen=True)
class SaveSettings:
    """The exported files."""

    save_precision: Precision = setting("fp16", "precision of the clients' files; the artifact is always fp32")
    formats: tuple[Format, ...] = setting(
        ("webui",),
        "webui: A1111, Forge, ComfyUI, kohya and diffusers; diffusers: peft's layout; bundle: both in one, for A1111",
    )
    trigger_word: str = setting("", "key of the embedding in its file, for diffusers; empty: NAME")


STAGE2 = StageSettings(
    steps=100, batch_size=4, learning_rate=5e-5, trains=("concept", "denoiser", "text"), semantic_weight=1.0
)


@dataclass(frozen=True)
class Settings:
    """Everything that a run depends on. The defaults are the paper's settings on SD 1.5, with ``run.teacher_bank``."""

    model: ModelSettings = field(default_factory=ModelSettings)
    data: DataSettings = field(default_factory=DataSettings)
    mask: MaskSettings = field(default_factory=MaskSettings)
    caption: CaptionSettings = field(default_factory=CaptionSettings)
    concept: ConceptSettings = field(default_factory=ConceptSettings)
    adapter: AdapterSettings = field(default_factory=AdapterSettings)
    stage1: StageSettings = field(default_factory=StageSettings)
    stage2: StageSettings = STAGE2
    scene: SceneSettings = field(default_factory=SceneSettings)
    prior: PriorSettings = field(default_factory=PriorSettings)
    run: RunSettings = field(default_factory=RunSettings)
    sample: SampleSettings = field(default_factory=SampleSettings)
    save: SaveSettings = field(default_factory=SaveSettings)

    @property
    def stages(self) -> dict[str, StageSettings]:
        """The stages that have steps, by name, in their order."""
        return {name: stage for name in STAGES if (stage := getattr(self, name)).steps > 0}

    @property
    def trains_weights(self) -> bool:
        """Does any stage change the model's weights, so that there is a LoRA at the end?"""
        return any(WEIGHT_ROLES & {*stage.trains} for stage in self.stages.values())

    @property
    def name(self) -> str:
        """NAME of the output files: ``run.output_name``, or the first picture's file name as a word."""
        name = self.run.output_name or (safe_trigger(Path(self.data.image[0]).stem) if self.data.image else "")
        if not name:
            raise ConfigError("--output_name is missing, and there is no --image whose name could be taken for it")
        return name

    @property
    def output_dir(self) -> Path:
        """``run.output_dir``, or ``output/NAME``."""
        return Path(self.run.output_dir) if self.run.output_dir else Path("output") / self.name


FREE_SECTIONS = frozenset({"sample", "save"})
"""Sections of the settings that no number of a run depends on."""
