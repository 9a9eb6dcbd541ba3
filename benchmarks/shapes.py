"""A run of the trainer on fake tensors: the true shapes of a Stable Diffusion, and nothing that computes.

Of a run's two devices, the card is played by fake tensors on the CPU, where PyTorch picks attention of the same kind as
on a GPU, and main memory by fake tensors on "meta".
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

from singleinsert.adapters.base import NO_ADAPTERS
from singleinsert.adapters.lora import LoraAdapters
from singleinsert.concepts import Concept, build_concept
from singleinsert.config import Settings
from singleinsert.data.subject import Frame, Handle
from singleinsert.dtypes import DTYPES
from singleinsert.models.bundled import ASSETS
from singleinsert.models.families import FAMILIES
from singleinsert.models.family import Family
from singleinsert.models.frozen_weights import BlockSwap, blocks_of, pieces_of_layers, quantize_blocks
from singleinsert.models.language_flow import LanguageFlow
from singleinsert.models.latents import LatentDistribution
from singleinsert.models.schedule import NoiseSchedule
from singleinsert.models.vocabulary import clip_tokenizer
from singleinsert.terms import WEIGHT_ROLES
from singleinsert.training.bank import TeacherBank
from singleinsert.training.encode import vary_prompts
from singleinsert.training.files import RunFiles
from singleinsert.training.loop import Loop, Run
from singleinsert.training.prompting import OneSubject, StepPrompt
from singleinsert.training.source import STEPS_AHEAD
from singleinsert.training.stages import Stage, adapter_options, stages_of
from singleinsert.training.step import EncodedPicture
from singleinsert.training.switches import set_switches
from singleinsert.training.texts import ConceptSet, PromptBook
from singleinsert.training.watch import SilentWatch

CARD = torch.device("cpu")
MAIN_MEMORY = torch.device("meta")
HANDLE = Handle("face", "face", "*")
PADDED_AS = {"sd1": ("sd1",), "sd2": ("sd2",), "sdxl": ("sd1", "sd2")}
"""How each family's tokenizers pad, in the words of ``clip_tokenizer``."""
CONFIGS = Path(__file__).parent / "configs"
"""Of the true models whose single files this project does not read."""


@contextmanager
def fake_tensors() -> Iterator[None]:
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def build_loop(settings: Settings, name: str, family: str = "sd1") -> tuple[Loop, Stage]:
    """The trainer's loop, one of its stages ready to step. To be called within :func:`fake_tensors`.

    Args:
        settings: of a run on one card, ``run.mixed_precision`` and ``run.micro_batch_size`` as chosen there.
        name: "stage1" or "stage2".
        family: the shapes, "sd1", "sd2", "sdxl", "flux2-klein-4b" or "z-image".
    """
    stages = stages_of(settings)
    stage = next(stage for stage in stages if stage.name == name)
    with unset_fake_temporarily():  # modules change devices and get LoRA layers while they are on "meta"
        model = meta_model(settings, family)
        adapters = inject(settings, model) if stage.trains & WEIGHT_ROLES else NO_ADAPTERS
        concept = make_concept(settings, model)
    run = settings.run
    encoders = (MAIN_MEMORY, torch.float32) if run.offload and not run.swap_text_encoders else (CARD, None)
    place(model.denoiser, CARD)
    for encoder in model.text_encoders.values():
        place(encoder, *encoders)
    place(concept, *encoders)
    loop = Loop(build_run(settings, model, concept, stages), sample=lambda *_: None)
    loop.adapters, loop.stage_index = adapters, stages.index(stage)
    loop.source.steps_ahead = 1 if settings.run.micro_batch_size else STEPS_AHEAD  # as on a card
    know_class_prompts(loop.run)
    if loop.bank is not None and stage is not stages[0]:
        fill(loop.bank, loop.run)
    with mock.patch.dict(sys.modules, {"bitsandbytes.optim": SimpleNamespace(AdamW8bit=AdamW8bit)}):
        loop._prepare(stage)
    away = blocks_of(model.denoiser)[-run.blocks_to_swap :] if run.blocks_to_swap else []
    away += model.layers_told_time if run.offload else ()
    if run.swap_text_encoders:
        away += [piece for encoder in model.text_encoders.values() for piece in pieces_of_layers(encoder)]
    for block in away:
        place(block, MAIN_MEMORY, only_frozen=True)
        BlockSwap(block, CARD)
    return loop, stage


class AdamW8bit(torch.optim.Optimizer):
    """The state that bitsandbytes' AdamW8bit keeps, byte for byte; its own kernels take no fake tensors.

    Two moments of a byte per element with a float32 scale per block of 256, and two tables for all; parameters of
    fewer than 4096 elements keep theirs in float32.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, **rest: Any) -> None:
        super().__init__(parameters, {"lr": lr})
        self.tables = [torch.empty(256) for _ in range(2)]

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for parameter in (p for group in self.param_groups for p in group["params"]):
            state, size = self.state[parameter], parameter.numel()
            if parameter.grad is None or state:
                continue
            for moment in ("1", "2"):
                if size < 4096:
                    state[f"state{moment}"] = torch.zeros_like(parameter)
                else:
                    state[f"state{moment}"] = torch.zeros_like(parameter, dtype=torch.uint8)
                    state[f"absmax{moment}"] = torch.zeros(-(-size // 256), device=parameter.device)


def meta_model(settings: Settings, family: str) -> Family:
    """The model's parts on "meta", frozen, in the run's precision."""
    import diffusers
    from diffusers.utils import logging

    logging.set_verbosity_error()  # of casts that leave out nothing
    folder = ASSETS / family if (ASSETS / family).is_dir() else CONFIGS / family
    index = json.loads((folder / "model_index.json").read_text())
    kind = next(kind for kind in FAMILIES if kind.pipeline_class == index["_class_name"])
    scheduler = getattr(diffusers, index["scheduler"][1])
    parts: dict[str, Any] = {"scheduler": scheduler.from_pretrained(folder / "scheduler")}
    for part in kind.weight_parts:
        parts[part] = meta_part(folder, index, part).to(DTYPES[settings.run.mixed_precision])
    for folder_name, padded_as in zip(kind.tokenizer_folders, PADDED_AS.get(family, ("",)), strict=True):
        parts[folder_name] = clip_tokenizer(padded_as) if padded_as else letters_tokenizer()
    parts["config"] = SimpleNamespace(is_distilled=False)
    model = kind.from_pipeline(SimpleNamespace(**parts), family, family, MAIN_MEMORY, "auto")
    if isinstance(model, LanguageFlow):
        model.schedule = model.own_schedule()
    else:
        model.schedule = NoiseSchedule.from_scheduler(parts["scheduler"])
    if settings.run.quantize != "no":
        kept = settings.run.offload or settings.run.swap_text_encoders
        with mock.patch.dict(sys.modules, {"bitsandbytes": SimpleNamespace(nn=StandIns)}):
            for part in (model.denoiser, *(() if kept else model.text_encoders.values())):
                quantize_blocks(part, settings.run.quantize)
    set_switches(model, replace(settings.run, offload=False))  # that is seen to where parts get their places
    return model


def meta_part(folder: Path, index: Mapping[str, Any], part: str) -> nn.Module:
    """A part of the model whose configurations are in ``folder``, on "meta"; ``index``: of its model_index.json."""
    import diffusers
    import transformers

    library, name = index[part]
    cls = getattr(diffusers if library == "diffusers" else transformers, name)
    config = json.loads((folder / part / "config.json").read_text())
    with torch.device("meta"):
        return cls.from_config(config) if library == "diffusers" else cls(cls.config_class(**config))


def letters_tokenizer() -> Any:
    """Qwen3's kind of tokenizer with letters alone: prompts are padded to one length in any case."""
    from tokenizers import pre_tokenizers
    from transformers import Qwen2Tokenizer

    tokens = (*sorted(pre_tokenizers.ByteLevel.alphabet()), "<|endoftext|>")
    tokenizer = Qwen2Tokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[])
    tokenizer.chat_template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    return tokenizer


class Dequantized(torch.autograd.Function):
    """A product with quantised weights: they are there in full only while it is made, forward and backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, shape: tuple[int, int]) -> Tensor:
        ctx.shape = shape
        ctx.save_for_backward(weight)
        return nn.functional.linear(x, torch.empty(shape, dtype=x.dtype, device=x.device))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = gradients
        return gradient @ torch.empty(ctx.shape, dtype=gradient.dtype, device=gradient.device), None, None


class QuantizedLinear(nn.Linear):
    """The bytes that bitsandbytes' layers keep, in one parameter: see :class:`StandIns`."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True, device: Any = None, **rest: Any) -> None:
        super().__init__(inputs, outputs, bias, device)

    def forward(self, x: Tensor) -> Tensor:
        out = Dequantized.apply(x, self.weight, (self.out_features, self.in_features))
        return out if self.bias is None else out + self.bias


def _nf4(weight: Tensor, **rest: Any) -> nn.Parameter:
    """Half a byte per element; per 64 of them a scale of a byte, and per 256 of these one in float32."""
    size = weight.numel()
    return _bytes(size // 2 + size // 64 + 4 * -(-size // (64 * 256)), weight)


def _int8(weight: Tensor, **rest: Any) -> nn.Parameter:
    """A byte per element, and a float32 scale for each row."""
    return _bytes(weight.numel() + 4 * weight.shape[0], weight)


def _bytes(size: int, like: Tensor) -> nn.Parameter:
    return nn.Parameter(torch.empty(size, 1, dtype=torch.uint8, device=like.device), requires_grad=False)


class StandIns:
    """``bitsandbytes.nn``, whose own kernels take no fake tensors."""

    Linear4bit = Linear8bitLt = QuantizedLinear
    Params4bit, Int8Params = staticmethod(_nf4), staticmethod(_int8)


def make_concept(settings: Settings, model: Family) -> Concept:
    from accelerate import init_empty_weights

    section = settings.concept
    with init_empty_weights():
        return build_concept(
            section.type, placeholder=HANDLE.placeholder, num_vectors=section.num_vectors,
            widths=model.embedding_widths, class_embedding=None,
            pixels=torch.zeros(1, 3, section.image_size, section.image_size), generator=torch.Generator(),
            init_std=section.init_std, patch_size=section.patch_size, hidden_size=section.hidden_size,
            num_hidden_layers=section.num_hidden_layers, num_attention_heads=section.num_attention_heads,
        )  # fmt: skip


def inject(settings: Settings, model: Family) -> LoraAdapters:
    return LoraAdapters.inject(model.adapted_parts, adapter_options(settings, model), torch.Generator())


def place(part: nn.Module, device: torch.device, dtype: torch.dtype | None = None, only_frozen: bool = False) -> None:
    """Put fake tensors of the same shape and dtype (or ``dtype``), on ``device``, in place of a module's own; or of
    those that do not train, buffers left alone."""
    for module in part.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and not (only_frozen and parameter.requires_grad):
                size, stride = parameter.shape, parameter.stride()
                fake = torch.empty_strided(size, stride, dtype=dtype or parameter.dtype, device=device)
                module._parameters[name] = nn.Parameter(fake, requires_grad=parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None and not only_frozen:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=device)


def build_run(settings: Settings, model: Family, concept: Concept, stages: list[Stage]) -> Run:
    side = settings.data.resolution
    shape = (1, *model.latent_shape(side, side))
    picture = EncodedPicture(
        LatentDistribution(torch.empty(shape), torch.empty(shape)), {HANDLE.name: torch.empty(1, 1, *shape[2:])},
        Frame.whole((side, side)), {HANDLE.name: torch.empty(1, 1, side, side)},
    )  # fmt: skip
    accelerator = SimpleNamespace(
        device=CARD, num_processes=1, process_index=0, scaler=None,
        gradient_accumulation_steps=settings.run.gradient_accumulation_steps,
    )  # fmt: skip
    concepts = ConceptSet({HANDLE.name: concept})
    return Run(
        settings=settings, accelerator=accelerator, files=RunFiles(Path(), HANDLE.name), stages=stages, model=model,
        concepts=concepts, pictures=(picture,), prompting=ForeknownPrompts(settings),
        book=PromptBook(model, concepts, {HANDLE.name: HANDLE.class_word}), identity={}, watch=SilentWatch(),
    )  # fmt: skip


class ForeknownPrompts:
    """The run's own prompts, drawn before there are fake tensors, which have no values to choose by."""

    def __init__(self, settings: Settings) -> None:
        prompting = vary_prompts(OneSubject(settings.run.seed, HANDLE, ("",)), settings)
        with unset_fake_temporarily():
            self._all = prompting.all_prompts()
            self._drawn = {
                (name, sample): prompting.at(name, sample)
                for name, stage in settings.stages.items()
                for sample in range(stage.steps * stage.batch_size)
            }

    def at(self, stage: str, sample: int) -> StepPrompt:
        return self._drawn[stage, sample]

    def all_prompts(self) -> Sequence[StepPrompt]:
        return self._all


def class_prompts(run: Run) -> list[str]:
    return list(dict.fromkeys(each.class_prompt for each in run.prompting.all_prompts()))


def know_class_prompts(run: Run) -> None:
    """Let all prompts without the concept be read already, which is no step's cost. Their tensors are the first's."""
    (picture,), texts = run.pictures, class_prompts(run)
    condition = run.book.frozen(texts[0], picture.frame, NO_ADAPTERS)
    run.book._frozen |= {(text, picture.frame): condition for text in texts}


def fill(bank: TeacherBank, run: Run) -> None:
    """What stage I leaves in the bank; its order is known before, since a fake tensor has no values to choose by."""
    bank.outputs = torch.empty(bank.samples, *run.pictures[0].latents.mean.shape[1:], dtype=run.model.dtype)
    bank._order = list(range(bank.samples))


def encode_once(settings: Settings, run: Run) -> None:
    """What a run encodes once: the picture, in float32, and the class prompts."""
    size = settings.data.resolution
    with mock.patch.object(nn.Module, "to", lambda part, *_: part):  # fake parameters cannot be cast as others are
        run.model.encode_picture(torch.empty(1, 3, size, size))
    run.book._frozen.clear()
    for text in class_prompts(run):
        run.book.frozen(text, run.pictures[0].frame, NO_ADAPTERS)
