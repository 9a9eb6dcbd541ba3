"""The released SingleInsert code's formulation of its training, restated: what is computed when, with its wastes.

Restated are the wastes of time and memory, on the same libraries, precision and attention as the project's own steps,
so that only the formulation is compared; not its defects of method, and not its slower attention and autocast.
- a deep copy of the UNet plays the frozen model. It was made before anything was frozen, and stage I runs on it, so
  stage I computes and keeps the gradients of all its weights, which nobody uses;
- each step encodes the picture with the VAE, batch-many times;
- image encoder and text encoder see batch-many copies of the one picture and the two prompts;
- the prompts with and without the concept go through the UNet as one batch, with a graph for both halves;
- the token embeddings are trainable: the vocabulary gets a dense gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from singleinsert.adapters.base import Adapters
from singleinsert.losses import SingleInsert, Views, all_terms
from singleinsert.training.loop import Run


@dataclass
class Authors:
    """Both stages, step by step.

    Attributes:
        run: of one concept, an image encoder of one vector, on an SD 1.x or 2.x.
        unet_copy: made before ``adapters`` were put into the model, where they are from the start.
        pixels: (1, 3, H, W) in [-1, 1], the picture.
    """

    run: Run
    unet_copy: nn.Module
    adapters: Adapters
    pixels: Tensor
    optimizer: Any = None

    def __post_init__(self) -> None:
        self.model: Any = self.run.model
        asked = self.run.prompting.at("stage1", 0)
        (handle,) = asked.handles
        self.concept: Any = self.run.concepts[handle]
        self.mask = self.run.pictures[0].masks[handle]  # (1, 1, h, w)
        prompts = [self.run.book.prompt(text).tokens["text_encoder"] for text in (asked.prompt, asked.class_prompt)]
        self.prompt, self.class_prompt = prompts

    def begin(self, stage: str, learning_rate: float = 1e-4) -> None:
        """A new optimiser: stage I for the image encoder, stage II for the LoRA layers too.

        The gradients of the copy's weights stay where they are, through stage II.
        """
        adapted = stage == "stage2"
        for _, parameter in self.adapters.named_parameters():
            parameter.requires_grad_(adapted)
        self.unet_copy.requires_grad_(not adapted)
        self.embeddings.requires_grad_(True)
        trained = [*self.concept.parameters()]
        trained += [parameter for _, parameter in self.adapters.named_parameters()] if adapted else []
        self.optimizer = torch.optim.AdamW(trained, lr=learning_rate)

    @property
    def embeddings(self) -> Tensor:
        return self.model.text_encoder.get_input_embeddings().weight

    def step(self, stage: str, batch: int) -> Tensor:
        """One optimiser step of ``batch`` samples; returns the loss."""
        model, schedule, device = self.model, self.model.schedule, self.pixels.device
        vae = model.vae
        with torch.no_grad():
            posterior = vae.encode(self.pixels.expand(batch, -1, -1, -1).to(vae.dtype)).latent_dist
            x0 = posterior.sample().float() * vae.config.scaling_factor
        noise = torch.randn_like(x0)
        t = torch.randint(0, schedule.num_timesteps, (batch,), device=device)
        x_t = schedule.add_noise(x0, noise, t)

        condition = self._encode_batch(batch)
        unet = model.unet if stage == "stage2" else self.unet_copy
        both = self._predict(unet, torch.cat([x_t, x_t]), torch.cat([t, t]), condition)
        x0_concept, x0_class = (schedule.x0_from(half, x_t, t) for half in both.chunk(2))
        x0_frozen = x0_class  # stage I changes no weights, so that its class half is the frozen model's
        if stage == "stage2":
            with torch.no_grad():
                frozen = self._predict(self.unet_copy, x_t, t, condition[batch:])
                x0_frozen = schedule.x0_from(frozen, x_t, t)
        objective = SingleInsert(semantic_weight=float(stage == "stage2"))
        weight = schedule.weight(t, objective.loss_space, objective.min_snr_gamma)
        views = Views(x0, x0_concept, x0_class, x0_frozen.detach(), self.mask, weight)
        loss = torch.stack([term.mean() for term in all_terms(objective, views).values()]).sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for group in self.optimizer.param_groups for p in group["params"]], 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()

    def _encode_batch(self, batch: int) -> Tensor:
        """(2 batch, L, d): the prompt with the concept for each sample, then the class prompt for each."""
        concept, text_encoder = self.concept, self.model.text_encoder
        token = concept.vit(concept.pixels.expand(batch, -1, -1, -1)).pooler_output
        vectors = concept.head(token)
        (slot,) = self.prompt.slots
        ids = [prompt.input_ids.expand(batch, -1) for prompt in (self.prompt, self.class_prompt)]

        def write_vectors(module: Any, args: Any, embedded: Tensor) -> Tensor:
            embedded = embedded.clone()
            embedded[:batch, slot.position] = vectors.to(embedded)
            return embedded

        hook = text_encoder.get_input_embeddings().register_forward_hook(write_vectors)
        try:
            return text_encoder(torch.cat(ids).to(self.pixels.device))[0]
        finally:
            hook.remove()

    def _predict(self, unet: nn.Module, x_t: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        dtype = self.model.dtype
        return unet(x_t.to(dtype), t, condition.to(dtype), return_dict=False)[0]
