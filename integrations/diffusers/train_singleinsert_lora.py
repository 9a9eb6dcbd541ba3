"""A LoRA from ONE picture and its mask, in the style of diffusers' examples, with SingleInsert's losses from its hooks.

    pip install --no-deps .
    accelerate launch integrations/diffusers/train_singleinsert_lora.py \
      --pretrained_model_name_or_path stable-diffusion-v1-5/stable-diffusion-v1-5 --train_text_encoder \
      --instance_image photo.png --mask_image mask.png --instance_prompt "sks face" --class_prompt face \
      --output_dir output --validation_prompt "sks face on the beach"

The prompt names the subject by a rare word; no embedding is learnt. For that, and for everything else the toolkit does,
there is train_singleinsert.py. What to add to diffusers' own train_dreambooth_lora.py is in docs/hosts.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.training_utils import cast_training_params
from peft import LoraConfig
from PIL import Image, ImageOps
from tqdm.auto import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from singleinsert.hosts import BaseInfo, FrozenPredictor, concept_loss, lora_from_peft, mask_from_batch, save_lora

SD2_WIDTH = 1024
DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--pretrained_model_name_or_path", required=True, help="SD 1.x or 2.x, a diffusers folder or a hub id")
    add("--instance_image", type=Path, required=True)
    add("--mask_image", type=Path, required=True, help="white where the subject is")
    add("--instance_prompt", required=True, help='with a rare word for the subject, "sks face"')
    add("--class_prompt", required=True, help='the same without it, "face"')
    add("--output_dir", type=Path, required=True)
    add("--resolution", type=int, default=512)
    add("--train_batch_size", type=int, default=4)
    add("--gradient_accumulation_steps", type=int, default=1)
    add("--gradient_checkpointing", action="store_true")
    add("--train_text_encoder", action="store_true")
    add("--max_train_steps", type=int, default=400)
    add("--learning_rate", type=float, default=1e-4)
    add("--max_grad_norm", type=float, default=1.0)
    add("--rank", type=int, default=4)
    add("--lora_alpha", type=float, default=4)
    add("--background_weight", type=float, default=1.0)
    add("--semantic_weight", type=float, default=1.0)
    add("--loss_space", choices=("x0", "epsilon", "v"), default="x0")
    add("--mixed_precision", choices=("no", "fp16", "bf16"), default="no")
    add("--seed", type=int, default=0)
    add("--validation_prompt", help="a picture of it is drawn at the end")
    return parser.parse_args(argv)


def load_square(path: Path, mode: str, size: int) -> torch.Tensor:
    """(1, channels, size, size) in [0, 1]: the picture's middle."""
    with Image.open(path) as file:
        image = ImageOps.fit(ImageOps.exif_transpose(file).convert(mode), (size, size), Image.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.asarray(image).copy()).float() / 255
    return pixels.reshape(size, size, -1).permute(2, 0, 1)[None]


def encode_subject(
    args: argparse.Namespace, device: torch.device
) -> tuple[DiagonalGaussianDistribution, float, torch.Tensor]:
    """The one picture through the VAE, once: (its latents' posterior, their scale, the mask (1, 1, h, w))."""
    vae = AutoencoderKL.from_pretrained(args.pretrained_model_name_or_path, subfolder="vae").to(device)
    pixels = load_square(args.instance_image, "RGB", args.resolution).to(device) * 2 - 1
    with torch.no_grad():
        posterior = vae.encode(pixels).latent_dist
    batch = {"masks": load_square(args.mask_image, "L", args.resolution).to(device)}
    return posterior, vae.config.scaling_factor, mask_from_batch(batch, posterior.mean.shape[-2:])


def load_models(args: argparse.Namespace, device: torch.device) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """UNet and text encoder in the precision asked for, with LoRA on their attention in float32."""
    base = args.pretrained_model_name_or_path
    unet = UNet2DConditionModel.from_pretrained(base, subfolder="unet").requires_grad_(False)
    text_encoder = CLIPTextModel.from_pretrained(base, subfolder="text_encoder").requires_grad_(False)
    lora = {"r": args.rank, "lora_alpha": args.lora_alpha, "init_lora_weights": "gaussian"}
    unet.to(device, DTYPES[args.mixed_precision])
    unet.add_adapter(LoraConfig(target_modules=["to_q", "to_k", "to_v", "to_out.0"], **lora))
    text_encoder.to(device, DTYPES[args.mixed_precision])
    if args.train_text_encoder:
        text_encoder.add_adapter(LoraConfig(target_modules=["q_proj", "k_proj", "v_proj", "out_proj"], **lora))
    if args.gradient_checkpointing:
        unet.train().enable_gradient_checkpointing()
    cast_training_params([unet, text_encoder], dtype=torch.float32)
    return unet, text_encoder


def main(args: argparse.Namespace) -> list[dict[str, float]]:
    """Train, write the LoRA; the loss terms of every batch."""
    accelerator = Accelerator(
        mixed_precision=args.mixed_precision, gradient_accumulation_steps=args.gradient_accumulation_steps
    )
    set_seed(args.seed, device_specific=True)
    base, device = args.pretrained_model_name_or_path, accelerator.device
    tokenizer = CLIPTokenizer.from_pretrained(base, subfolder="tokenizer")
    noise_scheduler = DDPMScheduler.from_pretrained(base, subfolder="scheduler")
    posterior, scaling_factor, mask = encode_subject(args, device)
    unet, text_encoder = load_models(args, device)

    tuned = [unet, text_encoder] if args.train_text_encoder else [unet]
    parameters = [parameter for model in tuned for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=args.learning_rate)
    *tuned, optimizer = accelerator.prepare(*tuned, optimizer)
    unet, text_encoder = tuned[0], tuned[-1] if args.train_text_encoder else text_encoder

    # The frozen model is the same one with its adapters off, text encoder included
    frozen = FrozenPredictor.from_peft(*tuned)
    ids = tokenizer(
        [args.instance_prompt, args.class_prompt], padding="max_length", truncation=True,
        max_length=tokenizer.model_max_length, return_tensors="pt",
    ).input_ids.to(device)  # fmt: skip
    with frozen.active():
        frozen_states = text_encoder(ids)[0]

    history = []
    progress = tqdm(total=args.max_train_steps, disable=not accelerator.is_local_main_process)
    while progress.n < args.max_train_steps:
        with accelerator.accumulate(*tuned):
            latents = torch.cat([posterior.sample() for _ in range(args.train_batch_size)]) * scaling_factor
            noise = torch.randn_like(latents)
            timesteps = torch.randint(0, noise_scheduler.config.num_train_timesteps, (len(latents),), device=device)
            noisy_latents = noise_scheduler.add_noise(latents, noise, timesteps).to(DTYPES[args.mixed_precision])

            # One sample of each prompt through the text encoder, expanded; both prompts in one call of the UNet
            states = text_encoder(ids)[0] if args.train_text_encoder else frozen_states
            prompts = 2 if args.semantic_weight else 1
            predictions = unet(
                noisy_latents.repeat(prompts, 1, 1, 1), timesteps.repeat(prompts),
                states[:prompts].repeat_interleave(len(latents), dim=0),
            ).sample.chunk(prompts)  # fmt: skip

            loss, terms = concept_loss(
                prediction=predictions[0],
                class_prediction=predictions[1] if args.semantic_weight else None,
                frozen_prediction=frozen(noisy_latents, timesteps, frozen_states[1:].expand(len(latents), -1, -1)),
                latents=latents, noise=noise, timesteps=timesteps, mask=mask,
                alphas_cumprod=noise_scheduler.alphas_cumprod, prediction_type=noise_scheduler.config.prediction_type,
                background_weight=args.background_weight, semantic_weight=args.semantic_weight,
                loss_space=args.loss_space,
            )  # fmt: skip
            accelerator.backward(loss.mean())
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(parameters, args.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad()
        history.append({name: term.mean().item() for name, term in terms.items()})
        progress.set_postfix(history[-1])
        progress.update(int(accelerator.sync_gradients))

    if accelerator.is_main_process:
        save(args, accelerator.unwrap_model(unet), accelerator.unwrap_model(text_encoder), noise_scheduler)
    accelerator.end_training()
    return history


def save(
    args: argparse.Namespace, unet: UNet2DConditionModel, text_encoder: CLIPTextModel, scheduler: DDPMScheduler
) -> None:
    """The LoRA as all clients read it, and a picture drawn from the file."""
    base = args.pretrained_model_name_or_path
    family = "sd2" if text_encoder.config.hidden_size == SD2_WIDTH else "sd1"
    info = BaseInfo(family, Path(base).name, scheduler.config.prediction_type)
    lora = lora_from_peft(unet, text_encoder if args.train_text_encoder else None)
    path = args.output_dir / "lora.safetensors"
    save_lora(path, lora, info, trigger_phrase=args.instance_prompt)
    if args.validation_prompt:
        pipeline = StableDiffusionPipeline.from_pretrained(base, dtype=unet.dtype).to(unet.device)
        pipeline.load_lora_weights(args.output_dir, weight_name=path.name)
        generator = torch.Generator().manual_seed(args.seed)
        size = {"height": args.resolution, "width": args.resolution}
        image = pipeline(args.validation_prompt, num_inference_steps=25, generator=generator, **size).images[0]
        image.save(args.output_dir / "validation.png")


if __name__ == "__main__":
    main(parse_args())
