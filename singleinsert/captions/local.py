"""A local vision-language model: any image-text-to-text model of transformers, asked without anything drawn at random.

Models whose processor wants torchvision, which must not be installed, are opened without their video part.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from singleinsert.captions.ask import first_option, shrink, without_thoughts
from singleinsert.errors import ModelError, first_line
from singleinsert.models.threads import choose_threads

FILES = "config.json, *.safetensors, preprocessor_config.json, tokenizer.json and, for chat models, the chat template"
WITHOUT_TORCHVISION = (
    "take one that does not, such as HuggingFaceTB/SmolVLM-500M-Instruct or google/gemma-3-4b-it, or serve it (ollama, "
    "vLLM, llama.cpp) and use openai:URL#MODEL"
)

MAX_NEW_TOKENS, TOKENS_TO_THINK = 200, 2048
"""A sentence of 40 words has 55 tokens. A model that was cut off while it thought is given more, once."""

CAPTIONERS = {"blip": None, "git": None, "blip-2": "a photo of", "florence2": "<MORE_DETAILED_CAPTION>"}
"""Kinds of model that caption and cannot be instructed -> the text that they are given, or none."""


class LocalModel:
    """As :class:`singleinsert.captions.ask.Ask`."""

    def __init__(self, model: str, device: torch.device | str = "cpu") -> None:
        """
        Args:
            model: hub id or folder. On CUDA it runs in bfloat16, else in float32.

        Raises:
            ModelError: one line: what cannot be loaded, and which files are needed.
        """
        from transformers import AutoConfig, AutoModelForImageTextToText
        from transformers.utils import logging

        logging.disable_progress_bar()
        logging.set_verbosity_error()
        self.name = f"vlm:{model}"
        if not Path(model).is_dir() and (model.startswith((".", "/", "~")) or model.count("/") != 1):
            raise ModelError(f"no folder {model}: give a hub id or a folder with {FILES}")
        choose_threads(model)
        dtype = torch.bfloat16 if torch.device(device).type == "cuda" else torch.float32
        try:
            AutoConfig.from_pretrained(model)  # a hub that is not reached takes half a minute a file: ask it for one
            self.processor: Any = load_processor(model)
            loaded: Any = AutoModelForImageTextToText.from_pretrained(model, use_safetensors=True, dtype=dtype)
            self.tokenizer: Any = self.processor.tokenizer
            self.model: Any = loaded.to(device).eval()
        except ModelError:
            raise
        except Exception as problem:  # transformers and the hub have errors of their own
            raise ModelError(
                f"{model} cannot be loaded as an image-text-to-text model, which needs {FILES}: {first_line(problem)}"
            ) from problem
        self.kind = str(self.model.config.model_type)
        self.captions_only = self.kind in CAPTIONERS

    @torch.no_grad()
    def __call__(self, picture: Image.Image, text: str) -> str:
        if self.captions_only:
            text = CAPTIONERS[self.kind] or ""
        with self._one_line():
            inputs = self.inputs(picture, text)
            answer = self._generate(inputs, text, MAX_NEW_TOKENS)
            if not without_thoughts(answer) and "<think" in answer.lower():
                answer = self._generate(inputs, text, TOKENS_TO_THINK)
        return without_thoughts(answer)

    def choose(self, picture: Image.Image, text: str, options: Sequence[str]) -> str | None:
        """The most probable of ``options`` by its first word's score: every picture gets an answer in one pass.

        Where the tokenizer cannot tell them apart by their first tokens, the answer's text is read.
        """
        if self.captions_only:
            return None
        if not self.can_tell_apart(options):
            return first_option(self(picture, text), options)
        return options[int(self.scores(picture, text, options).argmax())]

    def can_tell_apart(self, options: Sequence[str]) -> bool:
        """Whether each option has first tokens, and none of them is another's."""
        tokens = [self.first_tokens(option) for option in options]
        flat = [token for each in tokens for token in each]
        return all(tokens) and len(set(flat)) == len(flat)

    @torch.no_grad()
    def scores(self, picture: Image.Image, text: str, options: Sequence[str]) -> Tensor:
        """(len(options),) float64 log scores that the answer's first word is each option, however it is written.

        The tokenizer must tell the options apart: :meth:`can_tell_apart`.
        """
        with self._one_line():
            out = self.model.generate(
                **self.inputs(picture, text), max_new_tokens=1, do_sample=False, output_logits=True,
                return_dict_in_generate=True,
            )  # fmt: skip
        logits = out.logits[0][0].double().log_softmax(-1)
        tokens = [torch.tensor(self.first_tokens(option), device=logits.device) for option in options]
        return torch.stack([logits[each].logsumexp(0) for each in tokens])

    @contextmanager
    def _one_line(self) -> Iterator[None]:
        """Errors of the model, its processor or its chat template (of many kinds) as one line."""
        try:
            yield
        except torch.OutOfMemoryError as problem:
            raise ModelError(f"{self.name} does not fit the memory: take a smaller one, or --device cpu") from problem
        except Exception as problem:
            raise ModelError(f"{self.name} cannot answer on a picture and a text: {first_line(problem)}") from problem

    def close(self) -> None:
        self.model = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def inputs(self, picture: Image.Image, text: str) -> dict[str, Any]:
        """What the model's ``generate`` takes: a chat where it is a chat model, else the picture and the text."""
        picture = shrink(picture)
        template = str(getattr(self.processor, "chat_template", None) or "")
        if template:
            content = [{"type": "image", "image": picture}, {"type": "text", "text": text}]
            # only to templates that know it: transformers warns of any other
            more = {"enable_thinking": False} if "enable_thinking" in template else {}
            # SmolVLM cuts a picture into up to 17 tiles of 64 tokens each, which a caption does not need
            tiles = {"do_image_splitting": False} if self.kind == "idefics3" else {}
            inputs = self.processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=True, return_dict=True,
                return_tensors="pt", processor_kwargs=tiles, **more,
            )  # fmt: skip
        elif self.kind in ("blip", "git") and not text:
            inputs = self.processor(images=picture, return_tensors="pt")
        else:
            inputs = self.processor(images=picture, text=self._completion(text), return_tensors="pt")
        device, dtype = self.model.device, self.model.dtype
        return {k: v.to(device, dtype) if v.is_floating_point() else v.to(device) for k, v in inputs.items()}

    def _completion(self, text: str) -> str:
        """The text for models that complete one (BLIP-2, PaliGemma), with the picture's place where it is theirs."""
        if self.kind in CAPTIONERS:
            return text  # their processors put the picture in by themselves: Florence-2 would get two
        place = getattr(self.processor, "image_token", None)
        return f"{place}{text}" if isinstance(place, str) else f"Question: {text} Answer:"

    def _generate(self, inputs: dict[str, Any], text: str, limit: int) -> str:
        """What comes after the prompt, special tokens left out."""
        out = self.model.generate(**inputs, max_new_tokens=limit, do_sample=False)[0]
        prompt = inputs.get("input_ids")
        if prompt is not None and not self.model.config.is_encoder_decoder:
            length = prompt.shape[1]
            if torch.equal(out[:length], prompt[0]):
                return str(self.tokenizer.decode(out[length:], skip_special_tokens=True)).strip()
        # encoder-decoders begin anew, and BLIP replaces the prompt's first token
        answer = str(self.tokenizer.decode(out, skip_special_tokens=True)).strip()
        return answer.removeprefix(text).strip() if text else answer

    def first_tokens(self, word: str) -> list[int]:
        """First tokens of every way to write the word, which are no other word's beginning."""
        out: list[int] = []
        for text in (word, word.capitalize(), word.upper(), f" {word}", f" {word.capitalize()}"):
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            read = self.tokenizer.decode(ids[:1]).strip().lower() if ids else ""
            if read == word.lower() and ids[0] not in out:
                out.append(ids[0])
        return out


def load_processor(model: str) -> Any:
    """The processor of a hub id or folder.

    Raises:
        ModelError: it wants torchvision, also for pictures. Others as transformers raises them.
    """
    from transformers import AutoProcessor

    try:
        return AutoProcessor.from_pretrained(model)
    except ImportError as problem:
        if "torchvision" not in str(problem).lower():
            raise
        wanted = problem
    try:
        return _processor_for_pictures_only(model)
    except Exception as problem:
        raise ModelError(f"{model}: its processor needs torchvision: {WITHOUT_TORCHVISION}") from (wanted or problem)


def _processor_for_pictures_only(model: str) -> Any:
    """The processor of a model that also takes video (Qwen-VL, InternVL, Gemma 4, GLM-4V) with no video part.

    transformers makes the part from torchvision, and refuses to make the rest without it. Its class is told to take
    another part by writing to its module, here alone, and only where the ordinary way has failed.
    """
    import transformers
    from transformers import AutoImageProcessor, AutoTokenizer
    from transformers.video_processing_utils import VideoProcessorMixin

    module: Any = transformers
    module.VideoProcessorMixin = VideoProcessorMixin  # hidden by the lazy module where torchvision is missing

    class NoVideo(VideoProcessorMixin):
        model_input_names = ("pixel_values_videos",)
        merge_size = 2

        def __init__(self, **_: Any) -> None:
            pass

    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    config, _ = transformers.ProcessorMixin.get_processor_dict(model)
    name = config.get("processor_class") or _preprocessor_config(model).get("processor_class")
    template = config.get("chat_template") or tokenizer.chat_template or _template_file(model)
    return getattr(transformers, str(name))(
        image_processor=AutoImageProcessor.from_pretrained(model), tokenizer=tokenizer, video_processor=NoVideo(),
        chat_template=template,
    )  # fmt: skip


def _preprocessor_config(model: str) -> dict[str, Any]:
    from transformers import ImageProcessingMixin

    return dict(ImageProcessingMixin.get_image_processor_dict(model)[0])


def _template_file(model: str) -> str | None:
    from transformers.utils import cached_file

    file = cached_file(model, "chat_template.jinja", _raise_exceptions_for_missing_entries=False)
    return Path(file).read_text(encoding="utf-8") if file else None
