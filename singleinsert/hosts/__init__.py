"""SingleInsert's parts for other people's training scripts. Public and stable: plain tensors and models, no config.

A step of a host, whatever its trainer looks like::

    frozen = FrozenPredictor.from_peft(unet, text_encoder)      # or from_network(...), from_model(...)
    with frozen.active():
        class_states = text_encoder(class_ids)[0]                   # once: it never changes

    mask = mask_from_batch(batch, latents.shape[-2:])
    prediction = unet(noisy_latents, timesteps, states).sample      # the host's own
    loss, terms = concept_loss(
        prediction=prediction, latents=latents, noise=noise, timesteps=timesteps,
        alphas_cumprod=noise_scheduler.alphas_cumprod, mask=mask,
        frozen_prediction=frozen(noisy_latents, timesteps, class_states),
    )
    loss.mean().backward()

docs/hosts.md shows it in kohya's sd-scripts and in diffusers' examples.
"""

from singleinsert.artifact import Artifact, BaseInfo
from singleinsert.export import export
from singleinsert.hosts.frozen import FrozenPredictor
from singleinsert.hosts.lora import lora_from_peft, save_lora
from singleinsert.hosts.loss import ConceptLoss, concept_loss
from singleinsert.hosts.masks import mask_from_batch

__all__ = [
    "Artifact", "BaseInfo", "ConceptLoss", "FrozenPredictor", "concept_loss", "export", "lora_from_peft",
    "mask_from_batch", "save_lora",
]  # fmt: skip
