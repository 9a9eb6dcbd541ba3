"""What other people's training scripts call: the loss against the losses' own numbers, the frozen model to the bit."""

import copy

import pytest
import torch
from peft import LoraConfig
from safetensors import safe_open
from tinymodels import tiny_models
from torch import nn

from singleinsert.errors import InputError, ModelError
from singleinsert.hosts import (
    BaseInfo,
    FrozenPredictor,
    concept_loss,
    lora_from_peft,
    mask_from_batch,
    save_lora,
)
from singleinsert.losses import SingleInsert, Views, all_terms

ABAR = torch.tensor([0.8, 0.5, 0.2])
SHAPE = (2, 4, 3, 3)


def numbers(seed: int, shape: tuple[int, ...] = SHAPE) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def output_for(x0: torch.Tensor, x_t: torch.Tensor, abar: torch.Tensor, prediction_type: str) -> torch.Tensor:
    """The model output that stands for ``x0``: eps = (x_t - a x0) / s, v = a eps - s x0, with a^2 + s^2 = 1."""
    a, s = abar.sqrt(), (1 - abar).sqrt()
    epsilon = (x_t - a * x0) / s
    return {"epsilon": epsilon, "v_prediction": a * epsilon - s * x0, "sample": x0}[prediction_type]


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("space", ["x0", "epsilon", "v"])
def test_loss_is_that_of_the_losses(prediction_type, space):
    latents, noise, tuned, frozen, class_ = (numbers(seed) for seed in range(5))
    t = torch.tensor([0, 2])
    abar = ABAR[t].reshape(-1, 1, 1, 1)
    x_t = abar.sqrt() * latents + (1 - abar).sqrt() * noise
    mask = numbers(5, (2, 1, 3, 3)).sigmoid()
    outputs = [output_for(x0, x_t, abar, prediction_type) for x0 in (tuned, frozen, class_)]
    given = {
        "latents": latents, "timesteps": t, "alphas_cumprod": ABAR, "mask": mask, "prediction": outputs[0],
        "frozen_prediction": outputs[1], "class_prediction": outputs[2], "prediction_type": prediction_type,
        "background_weight": 0.5, "semantic_weight": 2.0, "loss_space": space,
    }  # fmt: skip
    loss, terms = concept_loss(noise=noise, **given)
    # an x0 error in epsilon is its a / s times, in v its 1 / s times (see tests/test_losses.py)
    weight = {"x0": torch.ones(2), "epsilon": (abar / (1 - abar)).flatten(), "v": (1 / (1 - abar)).flatten()}[space]
    views = Views(latents, tuned, class_, frozen, mask, weight)
    wanted = all_terms(SingleInsert(1.0, 0.5, 2.0, loss_space=space), views)
    assert list(terms) == list(wanted) == ["foreground", "background", "semantic"]
    for name in wanted:
        assert torch.allclose(terms[name], wanted[name], rtol=1e-4), name
    assert loss.shape == (2,) and torch.allclose(loss, sum(wanted.values()), rtol=1e-4)
    assert torch.allclose(concept_loss(noisy_latents=x_t, **given).loss, loss, rtol=1e-4)


def test_loss_by_hand():
    # abar 0.5: x0_hat - x0 = -(s/a)(eps_hat - eps) = -(eps_hat - eps). One channel, left column is the subject:
    # eps_hat - eps = (1, 2, 3, 4): fg (1 + 9)/4; frozen's is (1, 1, 1, 1): bg ((2-1)^2 + (4-1)^2)/4
    noise = numbers(0, (1, 1, 2, 2))
    error = torch.tensor([1.0, 2, 3, 4]).reshape(1, 1, 2, 2)
    mask = torch.tensor([1.0, 0, 1, 0]).reshape(1, 1, 2, 2)
    loss, terms = concept_loss(
        prediction=noise + error, frozen_prediction=noise + 1, latents=numbers(1, (1, 1, 2, 2)), noise=noise,
        timesteps=torch.tensor([1]), alphas_cumprod=ABAR, mask=mask,
    )  # fmt: skip
    assert terms["foreground"].item() == pytest.approx(2.5, rel=1e-5)
    assert terms["background"].item() == pytest.approx(2.5, rel=1e-5)
    assert loss.item() == pytest.approx(5.0, rel=1e-5)


def test_loss_in_the_hosts_own_space_is_its_masked_mse():
    """Without a background the plugin in epsilon space is what kohya's masked loss computes."""
    noise, predicted = numbers(0), numbers(1).half()
    mask = numbers(2, (1, 1, 3, 3)).sigmoid()
    loss, _ = concept_loss(
        prediction=predicted, latents=numbers(3), noise=noise, timesteps=torch.tensor([0, 2]), alphas_cumprod=ABAR,
        mask=mask, background_weight=0, loss_space="epsilon",
    )  # fmt: skip
    assert loss.dtype == torch.float32
    assert torch.allclose(loss, (mask * (predicted.float() - noise).square()).mean(dim=(1, 2, 3)), rtol=1e-4)


def test_no_gradient_into_the_frozen_prediction():
    tuned, frozen, class_ = (numbers(seed).requires_grad_() for seed in range(3))
    concept_loss(
        prediction=tuned, frozen_prediction=frozen, class_prediction=class_, latents=numbers(3), noise=numbers(4),
        timesteps=torch.tensor([0, 1]), alphas_cumprod=ABAR, mask=torch.ones(1, 1, 3, 3), semantic_weight=1,
    ).loss.mean().backward()  # fmt: skip
    assert frozen.grad is None
    assert tuned.grad.abs().sum() > 0 and class_.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"frozen_prediction": None}, "needs frozen_prediction"),
        ({"semantic_weight": 1}, "needs class_prediction"),
        ({"class_prediction": numbers(0)}, "set semantic_weight"),
        ({"noise": None}, "noise or noisy_latents"),
        ({"mask": torch.ones(2, 1, 24, 24)}, r"mask is \(2, 1, 24, 24\), \(2, 1, 3, 3\) is wanted"),
        ({"prediction": numbers(0, (2, 8, 3, 3))}, r"prediction is \(2, 8, 3, 3\)"),
    ],
)
def test_loss_refuses(changes, says):
    given = {
        "prediction": numbers(0), "frozen_prediction": numbers(1), "latents": numbers(2), "noise": numbers(3),
        "timesteps": torch.tensor([0, 1]), "alphas_cumprod": ABAR, "mask": torch.ones(2, 1, 3, 3),
    }  # fmt: skip
    assert concept_loss(**given).loss.shape == (2,)
    with pytest.raises(InputError, match=says):
        concept_loss(**(given | changes))


def quarters() -> torch.Tensor:
    """(1, 4, 4) whose 2x2 blocks have means 1, 0.5, 0.25, 0."""
    return torch.tensor([[1.0, 1, 1, 0], [1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]])[None]


@pytest.mark.parametrize(
    "batch",
    [
        {"conditioning_images": (quarters()[:, None] * 2 - 1) * torch.tensor([1.0, -1, 0]).reshape(1, 3, 1, 1)},
        {"conditioning_images": (quarters()[:, None] * 2 - 1).expand(-1, 3, -1, -1), "alpha_masks": quarters() * 0},
        {"alpha_masks": quarters(), "images": torch.zeros(1, 3, 4, 4)},
        {"alpha_masks": None, "masks": quarters()[:, None]},
        {"mask": quarters().bool()},
        {"mask": (quarters() * 255).to(torch.uint8)},
        quarters(),
    ],
    ids=["red channel", "kohya's order", "alpha", "plain", "bool", "bytes", "tensor"],
)
def test_mask_from_batch(batch):
    mask = mask_from_batch(batch, (2, 2))
    assert mask.dtype == torch.float32 and mask.shape == (1, 1, 2, 2)
    assert mask.flatten().tolist() == [1, 0.5, 0.25, 0]


@pytest.mark.parametrize(
    ("batch", "says"),
    [
        ({"images": torch.zeros(1, 3, 4, 4), "alpha_masks": None}, "holds no mask"),
        ({"mask": quarters() * 255}, "goes from 0 to 255"),
        ({"mask": torch.zeros(1, 3, 4, 4)}, r"\(1, 3, 4, 4\)"),
    ],
)
def test_mask_from_batch_refuses(batch, says):
    with pytest.raises(InputError, match=says):
        mask_from_batch(batch, (2, 2))


def lora_config(targets: list[str]) -> LoraConfig:
    return LoraConfig(r=2, lora_alpha=3, init_lora_weights=False, target_modules=targets)


@pytest.fixture
def tuned():
    """(models with LoRA as a diffusers script adds it, the text encoder's under its own name; the originals)."""
    models = tiny_models()
    originals = {name: copy.deepcopy(models[name]) for name in ("unet", "text_encoder")}
    torch.manual_seed(0)
    models["unet"].add_adapter(lora_config(["to_q", "to_v", "to_out.0"]))
    models["text_encoder"].add_adapter(lora_config(["q_proj", "v_proj"]), adapter_name="mine")
    return models, originals


@torch.no_grad()
def test_peft_models_are_their_own_frozen_ones(tuned):
    models, originals = tuned
    unet, text_encoder = models["unet"], models["text_encoder"]
    ids, x_t, t = torch.tensor([[1, 2, 3]]), numbers(0, (1, 4, 16, 16)), torch.tensor([7])
    trains = [name for name, parameter in unet.named_parameters() if parameter.requires_grad]
    frozen = FrozenPredictor.from_peft(unet, text_encoder)
    with frozen.active():
        states = text_encoder(ids)[0]
    assert torch.equal(states, originals["text_encoder"](ids)[0])
    assert not torch.equal(states, text_encoder(ids)[0])
    expected = originals["unet"](x_t, t, states).sample
    assert torch.equal(frozen(x_t, t, states), expected)
    assert torch.equal(frozen(x_t, t, states, return_dict=False), expected)
    assert not torch.equal(unet(x_t, t, states).sample, expected)
    assert trains and trains == [name for name, parameter in unet.named_parameters() if parameter.requires_grad]


def test_frozen_is_off_only_within_and_keeps_no_graph(tuned):
    models, _ = tuned
    frozen = FrozenPredictor.from_peft(models["unet"])
    x_t, t, states = numbers(0, (1, 4, 16, 16)).requires_grad_(), torch.tensor([7]), numbers(1, (1, 3, 32))
    assert not frozen(x_t, t, states).requires_grad
    with pytest.raises(RuntimeError, match="stop"), frozen.active():
        raise RuntimeError("stop")
    models["unet"](x_t, t, states).sample.sum().backward()
    assert all(p.grad is not None for name, p in models["unet"].named_parameters() if "lora_B" in name)
    with pytest.raises(ModelError, match="AutoencoderKL holds no peft adapter"):
        FrozenPredictor.from_peft(models["unet"], models["vae"])


class Network(nn.Module):
    """As kohya's LoRANetwork: one multiplier for all, added by the module that it hooks into."""

    def __init__(self) -> None:
        super().__init__()
        self.multiplier = 0.7
        self.down, self.up = nn.Linear(4, 2, bias=False), nn.Linear(2, 4, bias=False)

    def set_multiplier(self, multiplier: float) -> None:
        self.multiplier = multiplier

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.up(self.down(x)) * self.multiplier


def test_kohyas_multiplier_is_zero_within_and_as_before_afterwards():
    network, x = Network(), numbers(0, (3, 4))
    frozen = FrozenPredictor.from_network(network, network)
    assert torch.equal(frozen(x), x)
    assert network.multiplier == 0.7
    with pytest.raises(RuntimeError, match="stop"), frozen.active():
        assert network.multiplier == 0
        raise RuntimeError("stop")
    assert network.multiplier == 0.7


def test_gradients_survive_a_frozen_call_in_the_same_autocast():
    """Autocast keeps the low-precision copies of weights; those made without a graph must not reach the tuned model."""
    network, x = Network(), numbers(0, (3, 4))
    frozen = FrozenPredictor.from_network(network, network)
    with torch.autocast("cpu", torch.bfloat16):
        frozen(x)
        network(x).float().square().sum().backward()
    assert network.up.weight.grad is not None and network.down.weight.grad is not None


def test_a_second_model():
    second = nn.Linear(4, 4).train()
    frozen = FrozenPredictor.from_model(second)
    x = numbers(0, (2, 4)).requires_grad_()
    assert not frozen(x).requires_grad and torch.equal(frozen(x), second(x))
    assert not second.training and not any(p.requires_grad for p in second.parameters())


def test_saved_lora_loads_in_diffusers_with_its_alpha(tuned, tiny_sd, tmp_path):
    from diffusers import StableDiffusionPipeline

    models, _ = tuned
    unet = models["unet"]
    text_encoder = copy.deepcopy(tiny_models()["text_encoder"])
    text_encoder.add_adapter(lora_config(["q_proj", "out_proj"]))
    lora = lora_from_peft(unet, text_encoder)
    assert {w.alpha for w in lora["unet"].values()} == {3.0}
    path = tmp_path / "dog_lora.safetensors"
    save_lora(
        path, lora, BaseInfo("sd1", "tiny"), precision="fp32", trigger_phrase="sks dog", metadata={"ss_seed": "1"}
    )
    with safe_open(path, "pt") as file:
        header, keys = file.metadata(), list(file.keys())
    assert "lora_te_text_model_encoder_layers_0_self_attn_q_proj.alpha" in keys
    assert (header["ss_network_dim"], header["ss_network_alpha"], header["ss_seed"]) == ("2", "3.0", "1")
    assert header["modelspec.trigger_phrase"] == "sks dog" and "embedding" not in str(header)

    pipeline = StableDiffusionPipeline.from_pretrained(tiny_sd, safety_checker=None)
    pipeline.load_lora_weights(tmp_path, weight_name=path.name)
    ids, x_t, t = torch.tensor([[1, 2, 3]]), numbers(0, (1, 4, 16, 16)), torch.tensor([7])
    with torch.no_grad():
        states = text_encoder(ids)[0]
        assert torch.equal(pipeline.text_encoder(ids)[0], states)
        assert torch.equal(pipeline.unet(x_t, t, states).sample, unet(x_t, t, states).sample)


def test_no_lora_to_read(tuned):
    models, _ = tuned
    with pytest.raises(ModelError, match="the text_encoder holds no peft LoRA called 'default'"):
        lora_from_peft(models["unet"], models["text_encoder"])
