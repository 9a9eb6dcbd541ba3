"""Several concepts in one prompt, each with its own vectors and LoRA; seeds; samplers; what cannot be is one line."""

import dataclasses

import numpy as np
import pytest
import torch
from tinyconcepts import inject_lora, make_concept, with_embedding

from singleinsert.adapters.lora import make_lean
from singleinsert.adapters.weights import LoraWeights, WeightUpdate
from singleinsert.errors import InputError, ModelError
from singleinsert.inference.pipeline import ConceptPipeline, Picture
from singleinsert.inference.prompts import ConceptName, PromptLine, for_webui, lora_tags, prompt_lines, resolve, slot
from singleinsert.inference.schedulers import NOT_FOR_SAMPLE_PREDICTION, SCHEDULERS
from singleinsert.models.loading import load_base_model
from singleinsert.models.sampling import sample_images

FACE = Picture("* face in the snow", seed=3, steps=3)


@pytest.fixture(scope="module")
def anna(tiny_sd):
    return make_concept(tiny_sd, "anna", rank=2, alpha=5.0)


@pytest.fixture(scope="module")
def hat(tiny_sd):
    return make_concept(tiny_sd, "hat", num_vectors=2, rank=3, alpha=1.0, class_word="hat", text_targets=())


@pytest.fixture
def model(tiny_sd):
    return load_base_model(tiny_sd)


def drawn(pipeline, *pictures, **options):
    return [np.asarray(image).astype(int) for image in pipeline.render(pictures, **options)]


def prediction(model, condition):
    noisy = torch.linspace(-1, 1, 4 * 16 * 16).reshape(1, 4, 16, 16)
    with torch.no_grad():
        return model.unet(noisy, torch.tensor([500]), condition).sample


def test_the_trained_models_picture(anna, tiny_sd, model):
    """To one level of 255: its LoRA is folded into the weights while it draws."""
    trained = load_base_model(tiny_sd)
    inject_lora(trained, "anna", 2, 5.0)
    with torch.no_grad():
        vectors = {"*": {"text_encoder": anna.embedding}}
        condition, negative = (trained.encode(trained.tokenize(p, {"*": 1}), vectors) for p in (FACE.prompt, ""))
    (wanted,) = sample_images(trained, condition, negative, [torch.Generator().manual_seed(3)], steps=3)
    (got,) = drawn(ConceptPipeline(model, [anna]), FACE)
    assert np.abs(got - np.asarray(wanted)).max() <= 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weights", [(0.4, 1.0), (1.0, 3.0)])
def test_the_lean_layer_is_pefts_with_two_loras(anna, hat, tiny_sd, dtype, weights):
    """To the bit in float32; in half precision, where it rounds less often, within two of bfloat16's 8 bits."""
    from peft.tuners.lora import Linear

    model = load_base_model(tiny_sd, dtype=dtype)
    pipeline = ConceptPipeline(model, [anna, hat], weights)  # 0.4 * 5 / 2 and 3 * 1 / 3 are multiplications by 1
    layer = model.denoiser.get_submodule("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q")
    x = torch.linspace(-1, 1, 2 * 9 * layer.in_features).reshape(2, 9, -1).to(dtype)
    with torch.no_grad():
        ours, theirs, plain = layer(x), Linear.forward(layer, x), layer.base_layer(x)
        assert type(layer) is not Linear and not torch.allclose(theirs, plain, atol=0.1)
        assert torch.allclose(ours, theirs, atol=float(theirs.abs().max()) * 2**-6 if dtype == torch.bfloat16 else 0)
        assert dtype == torch.bfloat16 or torch.equal(ours, theirs)
        layer.lora_B["concept0"].bias = torch.nn.Parameter(torch.ones(layer.out_features, dtype=dtype))
        assert torch.allclose(layer(x), Linear.forward(layer, x), atol=2**-4 if dtype == torch.bfloat16 else 1e-6)
        assert not torch.allclose(layer(x), ours, atol=0.1)
        layer.lora_B["concept0"].bias = None
        layer.lora_variant["dora"] = object()  # one that somebody has loaded beside: peft's own pass
        assert torch.equal(layer(x), theirs)
        layer.lora_variant.clear()
        pipeline.pipeline.fuse_lora()  # a user's callback may: the weights then hold the LoRAs already
        assert torch.equal(layer(x), Linear.forward(layer, x)) and torch.equal(layer(x), layer.base_layer(x))
        layer._disable_adapters = True  # off is the frozen layer: peft takes them out again
        assert torch.allclose(layer(x), plain, atol=2**-4 if dtype == torch.bfloat16 else 1e-5)
    layer.lora_A["concept0"].to(torch.float64)
    layer.__class__ = Linear
    make_lean(layer)
    assert type(layer) is Linear  # peft casts the input
    moved = ConceptPipeline(load_base_model(tiny_sd), [anna], offload="sequential", offload_device="cpu")
    kinds = {type(module) for module in moved.model.denoiser.modules() if hasattr(module, "lora_A")}
    assert kinds == {Linear}  # whose parts bring their weights themselves


def test_loras_add_up_with_their_weights(anna, hat, tiny_sd, model):
    """A layer's weight becomes W + 0.5 (5/2) B_a A_a + 2 (1/3) B_h A_h, whatever peft does on the way."""
    ConceptPipeline(model, [anna, hat], [0.5, 2.0])
    merged = load_base_model(tiny_sd)
    modules = dict(merged.unet.named_modules())
    with torch.no_grad():
        for concept, scale in ((anna, 0.5 * 5 / 2), (hat, 2.0 * 1 / 3)):
            for path, weights in concept.lora["unet"].items():
                modules[path].weight += scale * weights.up @ weights.down
    condition = torch.linspace(-2, 2, 32 * 32).reshape(1, 32, 32)
    torch.testing.assert_close(prediction(model, condition), prediction(merged, condition), rtol=1e-4, atol=1e-4)


def test_a_concept_of_weight_0_leaves_no_trace(anna, hat, tiny_sd, model):
    alone = drawn(ConceptPipeline(load_base_model(tiny_sd), [anna]), FACE)
    pipeline = ConceptPipeline(model, [anna, hat], [1.0, 0.0])
    assert np.array_equal(drawn(pipeline, FACE), alone)
    pipeline.set_weights([1.0, 1.0])
    assert not np.array_equal(drawn(pipeline, FACE), alone)
    pipeline.set_weights([1.0, 0.0])
    assert np.array_equal(drawn(pipeline, FACE), alone)


def test_each_concept_is_written_at_its_own_place(anna, hat, model):
    """ "{hat} on {anna}" is, to the text encoder, "<hat's two vectors> hat on <anna's vector> face"."""
    pipeline = ConceptPipeline(model, [anna, hat], [0.0, 0.0])
    tokenized = model.tokenize("@ hat on # face", {"@": 2, "#": 1})
    with torch.no_grad():
        vectors = {"@": {"text_encoder": hat.embedding}, "#": {"text_encoder": anna.embedding}}
        wanted = model.encode(tokenized, vectors).states
    assert [placeholder for _, placeholder, _ in tokenized.slots] == ["@", "@", "#"]
    for prompt in ("{hat} on {anna}", "<hat> hat on * face", "<HAT> hat on {Anna}", "{hat} on {concept}"):
        assert torch.equal(pipeline.encode(prompt).states, wanted), prompt


NAMES = [
    ConceptName("anna", "face", lora="anna_lora"),
    ConceptName("my hat", "baseball cap", "<cap>", 0.5, lora="someone's"),
    ConceptName("x", ""),
]


A, B, C = slot(0), slot(1), slot(2)


@pytest.mark.parametrize(
    ("prompt", "resolved"),
    [
        ("* face, 5*3", f"{A} face, 5*3"),
        ("{concept}'s {placeholder} {class_word}", f"{A} face's {A} face"),
        ("<ANNA> with {my hat}", f"{A} with {B} baseball cap"),
        ("a <cap> on {x}", f"a {B} on {C}"),
        ("1 < 2 > 1", "1 < 2 > 1"),
        ("nothing of the kind", "nothing of the kind"),
    ],
)
def test_the_one_rule_of_prompts(prompt, resolved):
    assert resolve(prompt, NAMES) == resolved


@pytest.mark.parametrize(
    ("prompt", "concepts", "message"),
    [
        ("{ana} in the snow", NAMES, "{ana} .* names no loaded concept; did you mean anna?"),
        ("a <ana>", NAMES, "did you mean anna"),
        ("anna <lora:anna_lora:1>", NAMES, "a WebUI's: name the LoRA by --concept"),
        ("* face", [], "none is loaded: pass --concept"),
        ("{concept}", [], "none is loaded"),
        ("{anna}", [], "names no loaded concept; pass --concept"),
    ],
)
def test_prompts_that_name_nothing(prompt, concepts, message):
    with pytest.raises(InputError, match=message):
        resolve(prompt, concepts)


def test_the_webuis_prompt():
    resolved = resolve("{anna} (smiling) in <my hat>", NAMES)
    assert for_webui(resolved, NAMES) == r"anna face \(smiling\) in my hat"
    assert lora_tags(NAMES) == ["<lora:anna_lora:1>", "<lora:someone's:0.5>"]  # x has no LoRA


def test_prompt_files_with_kohyas_options(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text(
        "# a remark\n\n* face --n ugly, old --s 30 --l 4.5\nself-made -- not an option --d 7 --w 64 --h 32\n"
    )
    assert prompt_lines(path) == [
        PromptLine("* face", "ugly, old", 30, 4.5),
        PromptLine("self-made -- not an option", seed=7, width=64, height=32),
    ]
    for line, message in (("* --z 3", "unknown option --z"), ("* --s many", "--s 'many' is no number")):
        path.write_text(line)
        with pytest.raises(InputError, match=message):
            prompt_lines(path)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_picture_hangs_on_its_seed_alone(scheduler, anna, model):
    """Not on the batch, nor on the pictures before it; to one level of 255, which float sums of other shapes cost."""
    pipeline = ConceptPipeline(model, [anna], scheduler=scheduler)
    pictures = [dataclasses.replace(FACE, seed=seed) for seed in range(3)]
    one_by_one = drawn(pipeline, *pictures, batch_size=1)
    batched = drawn(pipeline, *pictures, batch_size=2)
    backwards = drawn(pipeline, *pictures[::-1], batch_size=3)[::-1]
    assert np.abs(np.subtract(one_by_one, batched)).max() <= 1
    assert np.abs(np.subtract(one_by_one, backwards)).max() <= 1
    assert np.abs(one_by_one[0] - one_by_one[1]).mean() > 10
    assert np.array_equal(drawn(pipeline, *pictures, batch_size=2), batched)


def test_pictures_of_different_kinds_come_in_order(anna, model):
    pipeline = ConceptPipeline(model, [anna])
    wide = dataclasses.replace(FACE, width=48, height=32)
    plain = dataclasses.replace(FACE, guidance_scale=1.0)
    blue = dataclasses.replace(FACE, negative_prompt="blue *")
    pictures = [FACE, wide, FACE, plain, blue]
    images = drawn(pipeline, *pictures)
    assert [image.shape[:2] for image in images] == [(32, 32), (32, 48), (32, 32), (32, 32), (32, 32)]
    assert np.array_equal(images[0], images[2])
    for picture, image in zip(pictures, images, strict=True):
        assert np.abs(drawn(pipeline, picture)[0] - image).max() <= 1
    assert np.abs(images[0] - images[3]).mean() > 1 and np.abs(images[0] - images[4]).mean() > 1


def test_a_callback_sees_and_changes_every_step(anna, model):
    seen = []

    def callback(pipe, step, timestep, tensors):
        seen.append((step, int(timestep), tuple(tensors["latents"].shape)))
        return {"latents": torch.zeros_like(tensors["latents"])} if step == 2 else {}

    pipeline = ConceptPipeline(model, [anna])
    images = drawn(pipeline, FACE, dataclasses.replace(FACE, seed=4), callback=callback)
    assert [(step, shape) for step, _, shape in seen] == [(i, (2, 4, 16, 16)) for i in range(3)]
    assert np.array_equal(images[0], images[1])  # both end as the picture of empty latents


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_draws_the_same_picture(dtype, anna, tiny_sd, model):
    (exact,) = drawn(ConceptPipeline(model, [anna]), FACE)
    half = load_base_model(tiny_sd, dtype=dtype)
    pipeline = ConceptPipeline(half, [anna])
    assert {parameter.dtype for parameter in (*half.unet.parameters(), *half.text_encoder.parameters())} == {dtype}
    (got,) = drawn(pipeline, FACE)
    (other,) = drawn(pipeline, dataclasses.replace(FACE, seed=4))
    assert np.abs(got - exact).mean() < 0.3 * np.abs(other - exact).mean()


def test_offloading_does_not_change_the_picture(anna, tiny_sd, model):
    """With the CPU in the GPU's place: the hooks are the same."""
    pictures = [FACE, dataclasses.replace(FACE, prompt="* face on the beach")]
    wanted = drawn(ConceptPipeline(load_base_model(tiny_sd), [anna]), *pictures, batch_size=1)
    pipeline = ConceptPipeline(model, [anna], offload="model", offload_device="cpu")
    assert np.array_equal(drawn(pipeline, *pictures, batch_size=1), wanted)
    assert np.array_equal(drawn(pipeline, *pictures, batch_size=1), wanted)


def test_layers_that_wait_leave_the_text_encoder_in_place(anna, tiny_sd, model):
    """Sequential offloading turns waiting weights into meta tensors; prompts are encoded outside of its hooks."""
    wanted = ConceptPipeline(load_base_model(tiny_sd), [anna]).encode(FACE.prompt).states
    pipeline = ConceptPipeline(model, [anna], offload="sequential", offload_device="cpu")
    assert {parameter.device.type for parameter in model.unet.parameters()} == {"meta"}
    assert torch.equal(pipeline.encode(FACE.prompt).states, wanted)


def test_v_and_sample_prediction(make_tiny_sd):
    for prediction_type in ("v_prediction", "sample"):
        folder = make_tiny_sd(prediction_type)
        concept = make_concept(folder)
        for scheduler in ("ddim", "dpmpp_2m", "unipc"):
            assert drawn(ConceptPipeline(load_base_model(folder), [concept], scheduler=scheduler), FACE)[0].std() > 1
    for scheduler in NOT_FOR_SAMPLE_PREDICTION:
        with pytest.raises(InputError, match="predicts x0"):
            ConceptPipeline(load_base_model(make_tiny_sd("sample")), [], scheduler=scheduler)


def test_what_does_not_fit_is_one_line(anna, hat, tiny_sd, model):
    wide = with_embedding(anna, torch.zeros(1, 48))
    elsewhere = dataclasses.replace(
        anna,
        update=WeightUpdate(
            "lora", {"unet": {"mid_block.nothing": LoraWeights(torch.zeros(1, 2), torch.zeros(2, 1), 1.0)}}
        ),
    )
    path = next(iter(anna.lora["unet"]))
    other_size = dataclasses.replace(
        anna, update=WeightUpdate("lora", {"unet": {path: LoraWeights(torch.zeros(1, 2), torch.zeros(2, 1), 1.0)}})
    )
    wrong = [
        (ModelError, "vectors of width 48.*takes 32", {"concepts": [wide]}),
        (ModelError, "does not fit.*mid_block.nothing", {"concepts": [elsewhere]}),
        (ModelError, "does not fit", {"concepts": [other_size]}),
        (InputError, "two concepts are called anna", {"concepts": [anna, hat, dataclasses.replace(hat, name="Anna")]}),
        (InputError, "3 weights for 1 concepts", {"concepts": [anna], "weights": [1, 2, 3]}),
        (InputError, "scheduler 'dimm' is none of auto, ddim", {"scheduler": "dimm"}),
        (InputError, "offload 'all' is none of", {"offload": "all"}),
    ]
    for error, message, options in wrong:
        with pytest.raises(error, match=message) as raised:
            ConceptPipeline(load_base_model(tiny_sd), **options)
        assert "\n" not in str(raised.value)
    pipeline = ConceptPipeline(model, [anna])
    for picture, message in (
        (dataclasses.replace(FACE, width=33), "33 pixels"),
        (dataclasses.replace(FACE, steps=0), "0 sampling steps"),
        (dataclasses.replace(FACE, prompt="{bob}"), "names no loaded concept"),
        (dataclasses.replace(FACE, prompt="snow " * 40 + "*"), "prompt too long"),
    ):
        with pytest.raises(InputError, match=message):
            drawn(pipeline, picture)
