"""The command lines are frozen: a new knob goes to the settings, not to the flags."""

from __future__ import annotations

import argparse
import errno
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import singleinsert
from singleinsert.cli import FLAGS, inference_parser, overrides_from_args, run_script, training_parser
from singleinsert.config import keys_declared, load_settings
from singleinsert.config.load import to_values
from singleinsert.errors import ConfigError, InputError

ROOT = Path(__file__).parents[1]

TRAINING = """
    --help --version --preset --config_file --set --low_vram --scene_words --mask_only --check --json
    --pretrained_model_name_or_path --revision --variant
    --image --mask --mask_index --box --class_word --describe --learn_background --placeholder_token --resolution
    --output_dir --output_name --seed
    --stage1_steps --stage2_steps --stage1_learning_rate --stage2_learning_rate
    --stage1_batch_size --stage2_batch_size --network_dim --network_alpha
    --mixed_precision --gradient_accumulation_steps --micro_batch_size
    --use_8bit_adam --enable_xformers_memory_efficient_attention --gradient_checkpointing
    --checkpointing_steps --resume_from_checkpoint --report_to --save_precision
""".split()
INFERENCE = """
    --help --version --concept --prompt --prompt_file --prompt_list --negative_prompt
    --seed --num_images --num_inference_steps --guidance_scale --scheduler --width --height --grid --attention_maps
    --output_dir --pretrained_model_name_or_path --revision --variant --batch_size --mixed_precision --device --offload
    --enable_xformers_memory_efficient_attention --enable_attention_slicing --enable_vae_tiling --allow_pickle
    --edit --edit_mask --edit_class_word --edit_strength --edit_order --edit_noise --edit_best
""".split()


def flags(parser: argparse.ArgumentParser) -> list[str]:
    return sorted(option for action in parser._actions for option in action.option_strings if option.startswith("--"))


def test_the_training_command_line():
    assert flags(training_parser()) == sorted(TRAINING)


def test_the_inference_command_line():
    assert flags(inference_parser("", ["ddim"])) == sorted(INFERENCE)


def settings_of(*argv: str):
    args = training_parser().parse_args(argv)
    return load_settings(args.preset, args.config_file, overrides_from_args(args))


def test_low_vram_is_a_group_of_settings_that_single_flags_win_over():
    run = settings_of("--preset", "face", "--low_vram").run
    assert run.offload and run.gradient_checkpointing and run.micro_batch_size == 1
    run = settings_of("--low_vram", "--micro_batch_size", "2", "--set", "run.use_8bit_adam=false").run
    assert run.offload and run.micro_batch_size == 2 and not run.use_8bit_adam


def test_no_flags_change_nothing():
    assert settings_of() == load_settings()


@pytest.mark.parametrize("flag", sorted(FLAGS))
def test_every_flag_lands_in_its_own_setting(flag):
    key = FLAGS[flag]
    given, expected = {
        "box": ("1,2,30,40", (1.0, 2.0, 30.0, 40.0)),
        "mixed_precision": ("bf16", "bf16"),
        "report_to": ("wandb", "wandb"),
        "save_precision": ("fp32", "fp32"),
        "stage1_learning_rate": ("2e-3", 2e-3),
        "stage2_learning_rate": ("2e-3", 2e-3),
        "network_alpha": ("8", 8.0),
        **{flag: ("64, x", ("64, x",)) for flag in ("image", "mask", "class_word")},  # may be repeated, never split
    }.get(flag, ("64", 64))
    before = to_values(load_settings())
    if isinstance(before[key], bool):
        after = to_values(settings_of(f"--{flag}"))
        expected = True
    else:
        after = to_values(settings_of(f"--{flag}", given))
        expected = given if isinstance(before[key], str) else expected
    assert after[key] == expected != before[key]
    assert {k: v for k, v in after.items() if k != key} == {k: v for k, v in before.items() if k != key}


def test_set_reaches_every_setting_and_comes_last():
    settings = settings_of("--seed", "3", "--set", "run.seed=4", "--set", "save.formats=bundle")
    assert (settings.run.seed, settings.save.formats) == (4, ("bundle",))
    for key, value in to_values(load_settings()).items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        if isinstance(value, tuple):
            text = json.dumps(value) if key in keys_declared("several") else ",".join(map(str, value))
        text = f'"{text}"' if text != text.strip() else text  # quotes keep its spaces
        assert settings_of("--set", f"{key}={text}") == load_settings(), key


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--set", "run.seed"], "write --set section.key=value"),
        (["--set", "run.sed=1"], "unknown key run.sed; did you mean run.seed?"),
        (["--set", "run.seed=one"], "run.seed must be a whole number, not 'one'"),
        (["--seed", "-1"], "run.seed is -1"),
        (["--preset", "fase"], "did you mean face?"),
    ],
)
def test_wrong_values_are_one_line(argv, message, capsys):
    def run(args):
        load_settings(args.preset, args.config_file, overrides_from_args(args))

    assert run_script(training_parser(), run, argv) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error


def test_flags_are_not_abbreviated():
    with pytest.raises(SystemExit):
        training_parser().parse_args(["--stage1_lear", "1"])


@pytest.mark.parametrize("words", [["--resolution", "abc"], ["--no_such_flag"], ["--preset"]])
def test_a_wrong_command_line_is_one_line(words, capsys):
    with pytest.raises(SystemExit) as stop:
        training_parser().parse_args(words)
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1 and words[0] in error


def test_exit_codes(capsys):
    parser = training_parser()

    def raising(problem: BaseException):
        def run(args):
            raise problem

        return run

    class Stopped(InputError):
        exit_code = 143

    assert run_script(parser, lambda args: None, []) == 0
    assert run_script(parser, raising(ConfigError("no")), []) == 2
    assert run_script(parser, raising(Stopped("saved")), []) == 143
    assert run_script(parser, raising(KeyboardInterrupt()), []) == 130
    assert run_script(parser, raising(OSError(errno.ENOSPC, "full", "out.bin")), []) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[:3] == ["error: no", "saved", "stopped"]
    assert lines[3].startswith("error: out.bin: the disk is full")
    assert run_script(parser, lambda args: Path("x" * 300).stat(), []) == 2
    assert "file name too long" in capsys.readouterr().err
    with pytest.raises(RuntimeError):  # what is no user's mistake keeps its traceback
        run_script(parser, raising(RuntimeError("a bug")), [])
    with pytest.raises(FileNotFoundError):
        run_script(parser, raising(FileNotFoundError(errno.ENOENT, "gone", "x")), [])


@pytest.mark.parametrize("script", ["train_singleinsert.py", "infer_singleinsert.py"])
def test_help_loads_nothing_heavy(script):
    heavy = "torch numpy PIL diffusers transformers accelerate peft".split()
    code = (
        f"import runpy, sys\nsys.argv = [{script!r}, '--help']\n"
        f"try:\n    runpy.run_path({script!r}, run_name='__main__')\nexcept SystemExit as leaving:\n"
        f"    assert not leaving.code\nprint('loaded:', [m for m in {heavy!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "loaded: []" in done.stdout and "--seed" in done.stdout


def test_no_command_loads_torch_for_its_help():
    """All in one process: each command's parser is made, and nothing that a run needs is imported."""
    code = (
        "import sys\nfrom contextlib import redirect_stdout\nfrom io import StringIO\n"
        "from singleinsert.__main__ import COMMANDS, main\n"
        "for name in COMMANDS:\n    said = StringIO()\n    try:\n"
        "        with redirect_stdout(said):\n            main([name, '--help'])\n"
        "    except SystemExit as leaving:\n        assert not leaving.code\n"
        "    assert '--help' in said.getvalue(), name\n"
        "    found = [m for m in ('torch', 'diffusers', 'transformers', 'cv2', 'gradio') if m in sys.modules]\n"
        "    assert not found, (name, found)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_wrong_preset_is_told_before_anything_heavy_is_loaded():
    code = (
        "import runpy, sys\nsys.argv = ['train_singleinsert.py', '--preset', 'fase', '--image', 'x.png']\n"
        "try:\n    runpy.run_path('train_singleinsert.py', run_name='__main__')\nexcept SystemExit as leaving:\n"
        "    print(leaving.code, [m for m in ('torch', 'numpy', 'PIL') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "2 []" and "did you mean face" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("script", ["train_singleinsert.py", "infer_singleinsert.py"])
def test_a_script_states_its_commands_first(script):
    head = "".join((ROOT / script).read_text(encoding="utf-8").splitlines(keepends=True)[:15])
    assert f"python {script}" in head


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("singleinsert.masks.__main__", ["find", "--image", "a.png", "--disj"]),
        ("singleinsert.masks.__main__", ["batch", "--imag", "photos"]),
        ("singleinsert.export.__main__", ["x", "--save", "fp32"]),
        ("singleinsert.export.__main__", ["x", "--over"]),
        ("singleinsert.batch.__main__", ["photos", "--dry"]),
        ("singleinsert.evaluate.__main__", ["report", "x", "--hel"]),
        ("train_singleinsert", ["--imag", "a.png"]),
        ("infer_singleinsert", ["--conc", "a"]),
    ],
)
def test_no_parser_takes_abbreviations(module, words, capsys):
    """A flag that is added later must not change what a saved command means."""
    with pytest.raises(SystemExit) as stop:
        importlib.import_module(module).main(words)
    assert stop.value.code == 2 and capsys.readouterr().err.startswith("error: ")


def test_every_parser_of_the_package_is_the_one_that_takes_none():
    for path in Path(singleinsert.__file__).parent.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "argparse.ArgumentParser(" not in text.replace("class Parser(argparse.ArgumentParser)", ""), path


def test_a_path_that_is_none_is_one_line(capsys):
    with pytest.raises(SystemExit):
        importlib.import_module("train_singleinsert").main(["--config_file", "a\ab"])
    line = capsys.readouterr().err
    assert "holds a control character" in line and line.count("\n") == 1
    assert importlib.import_module("train_singleinsert").main(["--config_file", "a\0b"]) == 2
    line = capsys.readouterr().err
    assert "holds a zero byte" in line and line.count("\n") == 1
