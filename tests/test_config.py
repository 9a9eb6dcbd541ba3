"""Settings are read strictly, merged in the promised order, written back without loss."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from singleinsert.config import Settings, StageSettings, load_settings, require, to_toml
from singleinsert.config.fields import STAGE2
from singleinsert.config.load import all_fields, check_name, parse_value, read_values, to_values
from singleinsert.config.reference import reference
from singleinsert.data.prompts import fill
from singleinsert.errors import ConfigError
from singleinsert.placeholders import split_at_placeholders

ROOT = Path(__file__).parents[1]


def refusal(text: str, tmp_path: Path) -> str:
    """The one line that a config file with this text is refused with."""
    path = tmp_path / "my.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_settings(config_file=path)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(str(path), "my.toml")


def test_the_defaults_are_the_papers():
    """Section 4 of the paper; optimiser and clipping are those of the authors' code."""
    settings = Settings()
    one, two = settings.stage1, settings.stage2
    assert (one.steps, one.batch_size, one.learning_rate, one.trains) == (50, 16, 1e-4, ("concept",))
    assert (two.steps, two.batch_size, two.learning_rate) == (100, 4, 5e-5)
    assert two.trains == ("concept", "denoiser", "text")
    assert (one.foreground_weight, one.background_weight, one.semantic_weight) == (1, 1, 0)
    assert (two.foreground_weight, two.background_weight, two.semantic_weight) == (1, 1, 1)
    for stage in (one, two):
        assert (stage.adam_beta1, stage.adam_beta2) == (0.9, 0.999)
        assert (stage.adam_weight_decay, stage.adam_epsilon) == (1e-2, 1e-8)
        assert (stage.max_grad_norm, stage.lr_scheduler, stage.loss_space, stage.mask_normalization) == (
            1.0, "constant", "x0", "mean",
        )  # fmt: skip
    assert (settings.adapter.network_dim, settings.adapter.network_alpha) == (4, 4)
    assert settings.data.resolution == 512


def test_preset_then_file_then_flags(tmp_path):
    path = tmp_path / "my.toml"
    path.write_text('[stage1]\nsteps = 7\n[data]\nclass_word = "cat"\nresolution = 128')
    settings = load_settings("mini", path, {"data.resolution": 256})
    assert settings.model.pretrained_model_name_or_path == "mini-sd"  # the preset's
    assert settings.data.class_word == ("cat",)  # the file's, over the preset's face
    assert settings.stage1.steps == 7
    assert settings.data.resolution == 256  # the flag's, over the file's 128 and the preset's 64
    assert settings.stage1.batch_size == load_settings("mini").stage1.batch_size


def test_every_setting_reaches_its_place():
    """No key lands anywhere but in its own field, through a file and through an override alike."""
    defaults = to_values(Settings())
    for key, field, hint in all_fields():
        other = _another_value(defaults[key], field, hint)
        if other is None:
            continue
        try:
            changed = to_values(load_settings(overrides={key: other}))
        except ConfigError as problem:  # a value that is right by itself and does not go with the rest
            assert key.split(".")[1] in str(problem)
            continue
        assert changed[key] == other
        assert {k: v for k, v in changed.items() if k != key} == {k: v for k, v in defaults.items() if k != key}


def _another_value(value, field, hint):
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        low, high = field.metadata["minimum"], field.metadata["maximum"]
        changed = value * 2 if value else type(value)(1)
        return changed if high is None or changed <= high else type(value)(low)
    choices = getattr(hint, "__args__", ())
    if isinstance(value, str):
        return next((c for c in choices if c != value), None) if choices else "{placeholder} other"
    return value[:1] if len(value) > 1 else None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[stage1]\nstep = 5", "my.toml: unknown key stage1.step; did you mean stage1.steps?"),
        ("[stage1]\nnetwork_dim = 5", "my.toml: unknown key stage1.network_dim; did you mean adapter.network_dim?"),
        ("[stag1]\nsteps = 5", "my.toml: unknown section [stag1]; did you mean stage1?"),
        ("seed = 1", "my.toml: key 'seed' stands in no section; did you mean run.seed or sample.seed?"),
        ("[stage1]\nsteps = '5'", "my.toml: stage1.steps must be a whole number, not '5'"),
        ("[stage1]\nsteps = 5.0", "my.toml: stage1.steps must be a whole number, not 5.0"),
        ("[stage1]\nsteps = true", "my.toml: stage1.steps must be a whole number, not True"),
        ("[stage1]\nsteps = -1", "my.toml: stage1.steps is -1, but must be at least 0"),
        ("[stage1]\nlearning_rate = nan", "my.toml: stage1.learning_rate must be a number, not nan"),
        ("[stage1]\nlearning_rate = '1e-4'", "my.toml: stage1.learning_rate must be a number, not '1e-4'"),
        ("[run]\nuse_8bit_adam = 1", "my.toml: run.use_8bit_adam must be true or false, not 1"),
        ("[data]\nimage = 3", "my.toml: data.image must be a list of texts in brackets, not 3"),
        ("[data]\nresolution = 9999", "my.toml: data.resolution is 9999, but must be between 32 and 4096"),
        ("[data]\nimage = ['a.png', 3]", "my.toml: data.image[1] must be a text in quotes, not 3"),
        ("[stage2]\ntrains = 'text'", "my.toml: stage2.trains must be a list in brackets, not 'text'"),
        (
            "[stage2]\ntrains = ['tex']",
            "my.toml: stage2.trains[0] is 'tex', but must be one of concept, denoiser, text; did you mean text?",
        ),
        (
            "[stage2]\ntrains = ['concept', 'unet']",
            "my.toml: stage2.trains[1] is 'unet', but must be one of concept, denoiser, text; it is called denoiser "
            "now",
        ),
        ("[adapter]\nunet_targets = []", "my.toml: adapter.unet_targets is called adapter.denoiser_targets now"),
        (
            "[stage1]\nantithetic_noise = true",
            "my.toml: stage1.antithetic_noise is gone: it made no difference that mattered: leave the key out",
        ),
        (
            "[painted]\nviews = 3",
            "my.toml: section [painted] is gone: it brought nothing (docs/research/levers.md): leave the section out",
        ),
    ],
)
def test_refusals_name_the_file_the_key_and_the_remedy(text, message, tmp_path):
    assert refusal(text, tmp_path) == message


def test_files_that_are_no_settings(tmp_path):
    assert "my.toml is not valid TOML" in refusal("[stage1\n", tmp_path)
    with pytest.raises(ConfigError, match="not found: absent.toml"):
        load_settings(config_file=Path("absent.toml"))
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(config_file=tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(config_file=tmp_path / "latin.toml")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"concept.patch_size": 30}, "concept.image_size 224 is no multiple of concept.patch_size 30"),
        ({"concept.num_attention_heads": 7}, "no multiple of concept.num_attention_heads 7"),
        ({"data.resolution": 513}, "data.resolution 513 is no multiple of 8: take 512"),
        ({"data.placeholder_token": " "}, "placeholder_token ' ' must be one word"),
        ({"data.placeholder_token": "the snow"}, "placeholder_token 'the snow' must be one word"),
        ({"data.prompt": "{placeholder} {clas_word}"}, "holds {clas_word}, which stands for nothing; did"),
        ({"sample.prompts": ["*", "{concpt} in snow"]}, "sample.prompts '{concpt} in snow' holds {concpt}"),
        ({"data.prompt": "a face"}, "does not hold {placeholder}"),
        ({"data.class_prompt": "{placeholder} {class_word}"}, "names the concept"),
        ({"data.class_prompt": "* {class_word}"}, "names the concept"),
        ({"stage1.steps": 0, "stage2.steps": 0}, "nothing to train"),
        ({"stage1.trains": []}, "stage1.trains is empty"),
        (
            {"stage1.foreground_weight": 0, "stage1.background_weight": 0.0},
            "stage1: foreground_weight, background_weight, semantic_weight are all 0",
        ),
        ({"run.output_name": "a/b"}, "must be a file name"),
    ],
)
def test_what_does_not_go_together(overrides, message):
    with pytest.raises(ConfigError) as caught:
        load_settings(overrides=overrides)
    assert message in str(caught.value)


def test_a_star_names_the_concept_as_it_does_in_every_prompt():
    assert load_settings(overrides={"data.prompt": "a photo of * {class_word}"}).data.prompt.startswith("a photo of *")


def test_a_stage_that_is_left_out_is_not_judged():
    settings = load_settings(overrides={"stage1.steps": 0, "stage1.trains": []})
    assert settings.stage1.trains == ()


NASTY = [
    "C:\\xampp\\x41", 'a "quoted" word', "it's", "two\nlines\tand a tab", "\x01\x1f\x7f", "ü 漢 🙂", "\\", "# no",
]  # fmt: skip


@pytest.mark.parametrize("text", NASTY)
def test_toml_round_trip_of_texts(text, tmp_path):
    settings = load_settings(overrides={"data.class_word": text, "sample.prompts": [text, "plain"]})
    path = tmp_path / "written.toml"
    path.write_bytes(to_toml(settings).encode())
    assert load_settings(config_file=path) == settings


def test_toml_round_trip_of_every_setting(tmp_path):
    """Also of numbers that TOML and Python write differently, and from beneath a preset: what is written is whole."""
    settings = load_settings(
        "hair", overrides={"stage2.learning_rate": 1e-12, "stage1.adam_weight_decay": 0, "mask.box": [1, 2.5, 3, 4]}
    )
    path = tmp_path / "written.toml"
    path.write_bytes(to_toml(settings).encode())
    assert set(read_values(path)) == {key for key, _, _ in all_fields()}
    assert load_settings("face", path) == settings


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("stage1.steps", "7", 7),
        ("stage1.learning_rate", "1e-4", 1e-4),
        ("run.use_8bit_adam", "true", True),
        ("data.class_word", "baseball cap", "baseball cap"),
        ("data.class_word", "5", "5"),
        ("data.class_word", '"cat"', "cat"),
        ("data.class_word", '["cat", "hat"]', ["cat", "hat"]),
        ("data.image", "me, you.png", "me, you.png"),
        ("data.crop", "zoom", "zoom"),
        ("save.formats", "webui, bundle", ["webui", "bundle"]),
        ("save.formats", '["webui"]', ["webui"]),
        ("save.formats", "", []),
        ("mask.box", "1, 2,3.5,4", [1, 2, 3.5, 4]),
        ("mask.box", "[1,2,3,4]", [1, 2, 3, 4]),
        ("stage1.steps", "many", "many"),
    ],
)
def test_values_of_a_command_line(key, text, value):
    assert parse_value(key, text) == value


def test_names_follow_from_the_picture():
    settings = load_settings(overrides={"data.image": "photos/me and you.v2.jpg"})
    assert settings.name == "me_and_you.v2" and settings.output_dir == Path("output/me_and_you.v2")
    settings = load_settings(overrides={"data.image": "me.jpg", "run.output_name": "x", "run.output_dir": "out"})
    assert settings.name == "x" and settings.output_dir == Path("out")
    for image in ("", "in/((.png"):
        with pytest.raises(ConfigError, match="--output_name is missing"):
            _ = load_settings(overrides={"data.image": image}).name


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"run.output_name": "zo*l"}, "run.output_name, 'zo*l', cannot name a concept"),
        ({"run.output_name": ".."}, "'..', cannot name a concept"),
        ({"run.output_name": "a\nb"}, "'a\\nb', cannot name a concept"),
        ({"run.output_name": "Concept"}, "'Concept', cannot name a concept: it means something else in prompts"),
        ({"data.image": "in/concept.png"}, "the name of in/concept.png, 'concept', cannot name a concept"),
        ({"run.output_name": "photo (1)"}, "it holds a space"),
        ({"run.output_name": "IMG[x]"}, "it holds [, and prompts of A1111, Forge or ComfyUI would break it there"),
        ({"run.output_name": "\u5bb6" * 67}, "it is 201 bytes long"),  # three bytes a letter
        (
            {"run.output_name": "zo.v2", "save.formats": ["webui", "bundle"]},
            "'zo.v2': A1111 splits the names in a bundle at dots",
        ),
        ({"run.output_name": "zo", "save.formats": ["bundle"], "stage2.steps": 0}, "no stage trains one"),
    ],
)
def test_names_that_the_files_would_refuse(overrides, message):
    with pytest.raises(ConfigError) as caught:
        check_name(load_settings(overrides=overrides))
    assert message in str(caught.value)
    check_name(load_settings(overrides={"run.output_name": "zo.v2_\u00fc", "save.formats": ["webui", "diffusers"]}))


def test_an_empty_text_in_place_of_a_picture_names_none():
    """And not the folder that the command is run in, which Path("") is."""
    for empty in ("", [""], []):
        assert load_settings(overrides={"data.image": empty}).data.image == ()


def test_what_a_run_cannot_do_without():
    with pytest.raises(ConfigError, match="--class_word is missing: such as face"):
        require(load_settings(overrides={"data.image": "me.jpg"}), image="the picture", class_word="such as face")
    require(load_settings(overrides={"data.image": "me.jpg", "data.class_word": "face"}), image="", class_word="")


def test_settings_do_not_change_under_a_run():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().run.seed = 1
    assert load_settings().stage2 is STAGE2 and StageSettings() == load_settings().stage1


def test_every_setting_is_explained():
    for key, field, _ in all_fields():
        assert len(field.metadata["help"]) > 3, key


def test_the_reference_page_is_up_to_date():
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == reference(), "run: python -m singleinsert.config > docs/configuration.md"


@pytest.mark.parametrize(
    ("prompt", "placeholder"),
    [
        ("a photo of *, smiling", "*"), ("(*) face", "*"), ("<me>'s face", "<me>"), ("a photo of *, smiling", "<me>"),
        ("a Sks, standing", "sks"), ("{concept}!", "*"),
    ],
)  # fmt: skip
def test_a_prompt_that_the_tokenizer_can_fill_is_accepted(prompt, placeholder):
    """One rule for settings, templates and the tokenizer: singleinsert.placeholders."""
    values = {"data.prompt": prompt, "data.placeholder_token": placeholder}
    filled = fill(load_settings(overrides=values).data.prompt, placeholder, "face")
    assert [part for _, part in split_at_placeholders(filled, {placeholder})].count(placeholder) == 1


@pytest.mark.parametrize(
    ("prompt", "placeholder"),
    [("a photo of tasks", "sks"), ("5*3", "*"), ("f*ck **", "*"), ("<mee>", "<me>"), ("a face", "*")],
)
def test_a_prompt_without_the_concept_is_refused(prompt, placeholder):
    values = {"data.prompt": prompt, "data.placeholder_token": placeholder}
    with pytest.raises(ConfigError, match="does not hold {placeholder}"):
        load_settings(overrides=values)


@pytest.mark.parametrize("prompt", ["a photo of *, smiling", "{placeholder} face", "sks's face"])
def test_a_class_prompt_that_names_the_concept_is_refused(prompt):
    with pytest.raises(ConfigError, match="names the concept, unknown to the frozen model"):
        load_settings(overrides={"data.class_prompt": prompt, "data.placeholder_token": "sks", "data.prompt": "sks"})


def test_a_prompt_of_a_command_line_keeps_its_commas():
    assert parse_value("sample.prompts", "a, b") in ("a, b", ["a, b"])
    settings = load_settings(overrides={"sample.prompts": parse_value("sample.prompts", "a {concept}, b")})
    assert settings.sample.prompts == ("a {concept}, b",)
    two = parse_value("sample.prompts", '["a, b", "c"]')
    assert load_settings(overrides={"sample.prompts": two}).sample.prompts == ("a, b", "c")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("stage1.steps", "9" * 5000), ("stage1.steps", "x" * 100_000), ("run.output_dir", "a\0b"),
        ("data.prompt", "* \udc80"), ("stage1.learning_rate", "9" * 4000), ("data.crop", "y" * 5000),
        ("stage1.trains", "[" * 2000),
    ],
)  # fmt: skip
def test_odd_values_are_one_short_line(key, value):
    with pytest.raises(ConfigError) as raised:
        load_settings(overrides={key: parse_value(key, value)})
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 400 and key in str(raised.value)


def test_a_bundled_model_brings_what_it_needs_over_any_preset(tmp_path):
    wanted = {"model.pretrained_model_name_or_path": "mini-scenes"}
    plain = load_settings("face", None, wanted)
    assert (plain.data.resolution, plain.mask.backend, plain.data.crop) == (96, "mini", "zoom")
    # a file and a flag still win, and so does naming the model in the file
    file = tmp_path / "own.toml"
    file.write_text('[model]\npretrained_model_name_or_path = "mini-scenes"\n[data]\nresolution = 64\n')
    assert load_settings("face", file).data.resolution == 64
    assert load_settings("face", None, wanted | {"data.resolution": 48}).data.resolution == 48
    assert load_settings("face").data.resolution == 512


def test_what_is_off_by_default_is_in_no_fingerprint():
    """What was trained before a setting existed is found again; a row that turns it on is another."""
    from singleinsert.config import values_off
    from singleinsert.evaluate.cache import _numbers

    plain = load_settings("mini+plain")
    offs = values_off()
    assert {"stage2.prompt_places", "adapter.min_rank", "run.quantize"} <= offs.keys()
    assert not offs.keys() & _numbers(plain).keys()
    assert not any(key.startswith("prior.") for key in _numbers(plain))
    on = load_settings("mini+plain", None, {"stage2.prompt_share": 0.25, "adapter.min_rank": 2})
    assert _numbers(on).keys() - _numbers(plain).keys() == {"stage2.prompt_share", "adapter.min_rank"}
    prior = load_settings("mini+plain", None, {"stage2.prior_weight": 1.0, "prior.pictures": 20})
    assert {"stage2.prior_weight", "prior.pictures"} <= _numbers(prior).keys()


def test_steps_grow_with_the_concepts_unless_they_are_given(tmp_path):
    def steps(preset, **more):
        settings = load_settings(preset, None, {key.replace("__", "."): value for key, value in more.items()})
        return settings.stage1.steps, settings.stage2.steps, settings.scene.steps_for

    two, three = ["cat", "mug"], ["cat", "mug", "tree"]
    assert steps("scene") == steps("scene", data__class_word=two) == (100, 200, 2)
    assert steps("scene", data__class_word=three) == (150, 300, 3)
    assert steps("scene", data__class_word=three, data__learn_background=True) == (200, 400, 4)
    assert steps("scene", data__class_word=three, stage1__steps=7) == (7, 300, 3)
    assert steps("scene", data__class_word=three, stage1__steps=7, stage2__steps=9) == (7, 9, 2)  # nothing has grown
    assert steps("scene", data__class_word=three, scene__steps_for=0) == (100, 200, 0)
    assert steps("scene-paper", data__class_word=three) == (400, 400, 0)
    # what a run wrote down means the same when it is read back
    grown = load_settings("scene", None, {"data.class_word": three})
    (tmp_path / "config.toml").write_text(to_toml(grown))
    assert load_settings(None, tmp_path / "config.toml") == grown
