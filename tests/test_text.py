"""Prompts with concepts: where slots land, and that writing them in equals an embedding table that holds them."""

import copy
from typing import Any

import pytest
import torch
from tinymodels import CONCEPT_WIDTH, MAX_LENGTH, hashed, tiny_models, tiny_tokenizer

from singleinsert.errors import InputError
from singleinsert.models.text import (
    Slot,
    TokenizedPrompt,
    check_words,
    encode,
    lookup,
    split_at_placeholders,
    tokenize,
    word_embeddings,
)


@pytest.fixture(scope="module")
def models():
    return tiny_models()


def reference_ids(tokenizer, prompt):
    return tokenizer(prompt, padding="max_length", truncation=True, return_tensors="pt")["input_ids"]


@pytest.mark.parametrize("prompt", ["a photo of a face", "", "a face, on the beach!", "zürich", "A PHOTO  of\ta face "])
def test_without_concepts_it_is_the_tokenizer(prompt):
    tokenizer = tiny_tokenizer()
    assert torch.equal(tokenize(tokenizer, prompt, {}).input_ids, reference_ids(tokenizer, prompt))
    assert torch.equal(tokenize(tokenizer, prompt, {"*": 1}).input_ids, reference_ids(tokenizer, prompt))


def test_slots_stand_where_the_placeholders_stand():
    tokenizer = tiny_tokenizer()
    prompt = tokenize(tokenizer, "<b>, a photo of * face and <B> cat", {"*": 2, "<b>": 1})
    # bos <b> , a photo of * * face and <b> cat
    assert prompt.slots == ((1, "<b>", 0), (6, "*", 0), (7, "*", 1), (10, "<b>", 0))
    plain = tokenizer("a, a photo of a a face and a cat")["input_ids"]
    ids = prompt.input_ids[0, : len(plain)].tolist()
    at_slots = {slot.position for slot in prompt.slots}
    assert [i for n, i in enumerate(ids) if n not in at_slots] == [i for n, i in enumerate(plain) if n not in at_slots]
    assert prompt.input_ids.shape == (1, MAX_LENGTH)


def test_word_like_placeholders_match_whole_words_only_and_the_longest_wins():
    pieces = split_at_placeholders("Sks, tasks sks1 sks", {"sks": 1, "sks1": 1})
    assert [name for _, name in pieces if name] == ["sks", "sks1", "sks"]
    for text in ("2*3", "f*ck", "**", "*face"):
        assert split_at_placeholders(text, {"*": 1}) == [(text, None)]
    assert split_at_placeholders("(*), <b>cat", {"*": 1, "<b>": 1})[1::2] == [("*", "*"), ("<b>", "<b>")]


def test_a_slot_that_would_be_cut_off_is_an_error_and_words_a_warning(caplog):
    tokenizer = tiny_tokenizer()
    many = "a " * (MAX_LENGTH - 2)
    with pytest.raises(InputError, match=r"too long: \* lies beyond the 30 tokens"):
        tokenize(tokenizer, many + "*", {"*": 1})
    with pytest.raises(InputError, match="too long"):
        tokenize(tokenizer, "a " * (MAX_LENGTH - 3) + "*", {"*": 2})
    kept = tokenize(tokenizer, "* " + many, {"*": 1})
    assert kept.input_ids.shape == (1, MAX_LENGTH) and kept.input_ids[0, -1] == tokenizer.eos_token_id
    assert "cut" in caplog.text


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_equals_an_embedding_table_that_holds_the_vectors(models, dtype):
    tokenizer, encoder = models["tokenizer"], copy.deepcopy(models["text_encoder"]).to(dtype)
    vectors = hashed((3, CONCEPT_WIDTH), 5)
    prompt = tokenize(tokenizer, "a photo of <x> face with <y> hat", {"<x>": 2, "<y>": 1})
    ours = encode(encoder, prompt, {"<x>": vectors[:2], "<y>": vectors[2:]})

    table = torch.nn.Embedding(len(tokenizer) + 3, CONCEPT_WIDTH, dtype=dtype)
    table.weight.data = torch.cat([encoder.get_input_embeddings().weight.data, vectors.to(dtype)])
    encoder.set_input_embeddings(table)
    ids = prompt.input_ids.clone()
    for i, (position, _, _) in enumerate(prompt.slots):
        ids[0, position] = len(tokenizer) + i
    assert ours.dtype == dtype and torch.equal(ours, encoder(ids)[0])


def test_gradients_reach_the_vectors_and_the_table_keeps_none(models):
    encoder = models["text_encoder"]
    before = encoder.get_input_embeddings().weight.clone()
    vectors = hashed((1, CONCEPT_WIDTH), 6).requires_grad_()
    prompt = tokenize(models["tokenizer"], "* face", {"*": 1})
    condition = encode(encoder, prompt, {"*": vectors})
    condition.square().sum().backward()
    assert vectors.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in encoder.parameters())
    assert torch.equal(encoder.get_input_embeddings().weight, before)
    assert not encoder.get_input_embeddings()._forward_hooks
    # causal attention: what stands before the slot does not see it
    assert torch.equal(condition[:, 0], encode(encoder, prompt, {"*": -vectors})[:, 0])


def test_a_concept_without_vectors_is_an_error(models):
    prompt = tokenize(models["tokenizer"], "* face", {"*": 1})
    with pytest.raises(InputError, match=r"holds \*, for which no concept is loaded"):
        encode(models["text_encoder"], prompt, {})


def test_word_embeddings(models):
    weight = models["text_encoder"].get_input_embeddings().weight
    ids = models["tokenizer"]("baseball cap", add_special_tokens=False)["input_ids"]
    rows = word_embeddings(models["tokenizer"], models["text_encoder"], "baseball cap")
    assert rows.shape == (2, CONCEPT_WIDTH) and torch.equal(rows, weight[ids])


@pytest.mark.parametrize(
    ("placeholder", "class_word", "message"),
    [
        ("*", "\u00fc\u00fc", "class word '\u00fc\u00fc' is unknown"),
        ("*", "", "class word '' is unknown"),
        ("\u00e9", "face", "placeholder '\u00e9' is unknown"),
        ("cat", "face", "placeholder 'cat' is a word the tokenizer already has"),
        ("Face", "face", "placeholder 'Face' is part of the class word"),
    ],
)
def test_words_that_cannot_work_are_refused(placeholder, class_word, message):
    with pytest.raises(InputError, match=message):
        check_words(tiny_tokenizer(), placeholder, class_word)
    check_words(tiny_tokenizer(), "*", "baseball cap")


def t5() -> Any:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(T5Config(vocab_size=50, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4))


def gemma() -> Any:
    from transformers import Gemma2Config, Gemma2Model

    return Gemma2Model(
        Gemma2Config(
            vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, head_dim=8,
        )
    )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("build", [t5, gemma])
def test_other_encoders_read_the_vector_as_if_their_table_held_it(build, dtype):
    """T5's forward calls another module than get_input_embeddings() gives; Gemma scales what its table says."""
    torch.manual_seed(0)
    encoder = build().to(dtype).eval().requires_grad_(False)
    vectors = hashed((2, CONCEPT_WIDTH), 5).requires_grad_()
    prompt = TokenizedPrompt(torch.tensor([[2, 7, 7, 11, 1]]), (Slot(1, "*", 0), Slot(2, "*", 1)))
    before = lookup(encoder).weight.clone()
    ours = encode(encoder, prompt, {"*": vectors})

    holding = copy.deepcopy(encoder)
    table = lookup(holding).weight
    table[40:42] = vectors.detach().to(dtype)
    table.requires_grad_()
    reference = holding(torch.tensor([[2, 40, 41, 11, 1]]))[0]
    assert ours.dtype == dtype and torch.equal(ours, reference)

    weight = hashed(tuple(ours.shape), 6)
    (weight * ours.float()).sum().backward()
    (weight * reference.float()).sum().backward()
    assert vectors.grad.abs().min() > 0
    assert torch.allclose(vectors.grad, table.grad[40:42].float(), rtol=1e-5 if dtype == torch.float32 else 2e-2)
    assert torch.equal(lookup(encoder).weight, before) and not lookup(encoder)._forward_hooks
