"""Files appear whole or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from singleinsert.atomic import unfinished, write_atomically, write_text
from singleinsert.errors import InputError


def test_a_file_appears_with_its_folder(tmp_path):
    path = tmp_path / "new" / "folder" / "a.txt"
    write_text(path, "ü\n")
    assert path.read_bytes() == "ü\n".encode()
    assert [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_the_writer_gets_the_suffix_and_the_same_folder(tmp_path):
    seen = []
    write_atomically(tmp_path / "a.png", lambda target: seen.append(target) or target.write_bytes(b"x"))
    assert seen[0].suffix == ".png" and seen[0].parent == tmp_path and seen[0].name.startswith(".")


def test_permissions_are_those_of_an_ordinary_file(tmp_path):
    old = os.umask(0o027)
    try:
        write_text(tmp_path / "a.txt", "x")
    finally:
        os.umask(old)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("problem", [RuntimeError("a bug"), KeyboardInterrupt()])
def test_what_was_there_stays_when_a_write_fails(tmp_path, problem):
    path = tmp_path / "a.txt"
    path.write_text("before")

    def write(target):
        target.write_text("half")
        raise problem

    with pytest.raises(type(problem)):
        write_atomically(path, write)
    assert path.read_text() == "before" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize(
    "problem",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),  # safetensors' way
    ],
)
def test_a_full_disk_is_one_line(tmp_path, problem):
    def write(target):
        target.write_text("half")
        raise problem

    with pytest.raises(InputError) as caught:
        write_atomically(tmp_path / "a.safetensors", write)
    message = str(caught.value)
    assert message.startswith(f"cannot write {tmp_path / 'a.safetensors'}: the disk is full (")
    assert "\n" not in message and not list(tmp_path.iterdir())


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device that is always full is Linux's")
def test_a_truly_full_device(tmp_path):
    def write(target):
        with open("/dev/full", "wb") as device:
            device.write(b"x")

    with pytest.raises(InputError, match="the disk is full"):
        write_atomically(tmp_path / "a.bin", write)


def test_a_place_that_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"cannot write .*file exists|cannot write .*not a directory"):
        write_text(tmp_path / "file" / "a.txt", "x")


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (RuntimeError("Error while serializing: I/O error: File too large (os error 27)"), "ulimit -f"),
        (RuntimeError("Error while serializing: I/O error: Disk quota exceeded (os error 122)"), "the disk is full"),
        (RuntimeError("Error while serializing: I/O error: Input/output error (os error 5)"), "input/output error"),
        (RuntimeError("Error while serializing: I/O error: something new"), "something new"),
        (OSError("encoder error -2 when writing image file"), "encoder error -2"),  # Pillow's, without a number
    ],
)
def test_every_other_error_of_a_write_is_one_line(tmp_path, problem, message):
    def write(target):
        raise problem

    with pytest.raises(InputError, match=message) as caught:
        write_atomically(tmp_path / "a.safetensors", write)
    assert "\n" not in str(caught.value) and not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a limit of one process needs a process of its own")
def test_safetensors_own_error_at_a_limit(tmp_path):
    """What safetensors truly says where files may have 1 KiB and no more."""
    code = f"""
import resource, signal, torch
from pathlib import Path
from singleinsert.errors import InputError
from singleinsert.tensorfile import write_safetensors
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))
try:
    write_safetensors(Path({str(tmp_path)!r}) / "a.safetensors", {{"a": torch.ones(4096)}}, {{}})
except InputError as problem:
    print(problem)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert "cannot write" in said.stdout and "ulimit" in said.stdout, said
    assert not list(tmp_path.iterdir())


def test_what_a_killed_write_leaves_is_known_by_its_name(tmp_path):
    name = "\u5bb6" * 66 + "_artifact.safetensors"  # 198 + 21 bytes, near the most that a file of ours has
    write_atomically(tmp_path / name, lambda target: (tmp_path / ("copy" + target.suffix)).write_bytes(b"x"))
    seen = {}
    write_atomically(tmp_path / "a_lora.safetensors", lambda target: seen.update(unfinished(tmp_path)))
    assert list(seen.values()) == ["a_lora.safetensors"]
    assert unfinished(tmp_path) == {}
