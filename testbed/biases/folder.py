"""The references as a folder that `python -m singleinsert.evaluate` takes: pictures, masks, captions and prompts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from singleinsert.atomic import write_atomically, write_text
from singleinsert.config.load import toml_string
from singleinsert.data.captions import METADATA, metadata_text
from singleinsert.evaluate.prompt_lists import BESIDE_SUFFIX

from .descriptions import CASES, QUALITIES, described
from .references import Reference

LIST = "concepts.toml"
MOST = 10
"""References of each bias in each set."""
DEFAULTS = """# References of SID's biases: python -m singleinsert.evaluate biases
[defaults]
"data.prompt" = "a photo of a {placeholder} {class_word}"
"data.class_prompt" = "a photo of a {class_word}"
"""
MINI_SCENES = "mini-scenes"
STYLE = """"data.prompt" = "{placeholder} {class_word}"
"data.class_prompt" = "{class_word}"
"stage1.objective" = "full_image"
"stage1.loss_space" = "epsilon"
"stage2.objective" = "full_image"
"stage2.loss_space" = "epsilon"
"prior.prompt" = "{class_word}"
"""
"""Of a style: it has no mask, so that all of the picture is learnt."""


def write_folder(folder: Path, wanted: Sequence[Reference]) -> Path:
    """Write references: pictures, masks and probes; all descriptions in metadata.jsonl; the list's path."""
    rows = {}
    for reference in wanted:
        for variant in (*CASES, *QUALITIES):
            file = f"{reference.name}.{variant}.png"
            rows[file] = {"file_name": file, "text": described(reference, variant)}
    write_text(folder / METADATA, metadata_text(rows))
    write_text(folder / LIST, "\n".join([DEFAULTS, *(_write(reference, folder) for reference in wanted)]))
    return folder / LIST


def _write(reference: Reference, folder: Path) -> str:
    """The files of one reference, case 3 as the description beside it; its job."""
    name = reference.name
    write_atomically(folder / f"{name}.png", reference.draw(reference.scene).save)
    write_text(folder / f"{name}.txt", described(reference, "case3") + "\n")
    write_text(folder / f"{name}{BESIDE_SUFFIX}", prompts_toml(reference))
    job = f'[[job]]\nname = "{name}"\nimage = "{name}.png"\nclass_word = "{reference.class_word}"\n'
    if reference.is_style:
        return job + STYLE
    write_atomically(folder / f"{name}_mask.png", reference.mask().save)
    return (
        job
        + (f'"model.pretrained_model_name_or_path" = "{MINI_SCENES}"\n' if reference.is_scene else "")
        + f'mask = "{name}_mask.png"\n'
    )


def prompts_toml(reference: Reference) -> str:
    """The probes as a prompt list, with what each asks for as its target."""
    lines = [f"title = {toml_string(reference.name)}"]
    for probe in reference.probes:
        labels = ", ".join(f"{name} = {toml_string(value)}" for name, value in probe.asks.items())
        question = toml_string(f"Is it {probe.text.replace('{concept}', reference.class_word)}?")
        lines += [
            "",
            "[[prompt]]",
            f"text = {toml_string(probe.text)}",
            f"target = [{{ question = {question}, label = {{ {labels} }} }}]",
        ]
    return "\n".join(lines) + "\n"
