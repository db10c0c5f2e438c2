"""What a spec names of the host is looked at before anything starts."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import pytest

import sandbox
from tests.sandbox.conftest import shell


def _bind(source: Path, target: str) -> sandbox.ReadOnlyBind:
    return sandbox.ReadOnlyBind(source=source, target=PurePosixPath(target))


async def _refusal(pool: sandbox.Pool, **fields: object) -> str:
    """What a run is refused with; nothing of it may have begun."""
    with pytest.raises(sandbox.BadSpec) as caught:
        async with pool.open_run(shell("touch /task/ran", **fields)):
            pytest.fail("it started")
    return str(caught.value)


async def test_a_missing_bind_source_is_named(any_pool: sandbox.Pool, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    told = await _refusal(any_pool, binds=(_bind(missing, "/data"),))
    assert told == f"cannot show {missing}: No such file or directory"


async def test_only_files_and_folders_are_bound(any_pool: sandbox.Pool, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    told = await _refusal(any_pool, binds=(_bind(tmp_path / "pipe", "/data"),))
    assert told.endswith("it is neither a file nor a folder")


async def test_a_bind_inside_another_needs_a_place_there(
    any_pool: sandbox.Pool, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    for outer in ("file", "folder"):
        binds = (_bind(tmp_path / "file", "/data/below"), _bind(tmp_path / outer, "/data"))
        told = await _refusal(any_pool, binds=binds)
        assert told.endswith(f"{tmp_path / outer} has no such place to show it at")


async def test_stdin_must_be_a_file(any_pool: sandbox.Pool, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        assert await _refusal(any_pool, stdin=path) == f"cannot read {path}: it is not a file"


async def test_a_root_file_system_must_be_one(any_pool: sandbox.Pool, tmp_path: Path) -> None:
    missing, empty, link = tmp_path / "missing", tmp_path / "empty", tmp_path / "link"
    empty.mkdir()
    assert "No such file" in await _refusal(any_pool, root=missing)
    assert (await _refusal(any_pool, root=empty)).endswith("it has no usable usr")
    (empty / "usr").mkdir()
    assert (await _refusal(any_pool, root=empty)).endswith("it has no usable bin/sh")
    (empty / "bin").mkdir()
    (empty / "bin/sh").write_text("not executable")
    assert (await _refusal(any_pool, root=empty)).endswith("it has no usable bin/sh")
    # A link out of it leads nowhere: inside, /bin/sh is its own.
    link.mkdir()
    (link / "usr").mkdir()
    (link / "bin").mkdir()
    (link / "bin/sh").symlink_to("/usr/bin/env")
    assert (await _refusal(any_pool, root=link)).endswith("it has no usable bin/sh")


async def test_a_device_must_be_there_and_be_one(any_pool: sandbox.Pool) -> None:
    told = await _refusal(any_pool, devices=(Path("/dev/nvidia-that-is-not-there"),))
    assert told == (
        "cannot give the device /dev/nvidia-that-is-not-there: No such file or directory"
    )
    told = await _refusal(any_pool, devices=(Path("/dev/fd"),))
    assert told == "cannot give the device /dev/fd: it is not a character device"
    told = await _refusal(any_pool, devices=(Path("/dev/fd/0"),))
    assert told.startswith("cannot give the device /dev/fd/0: it is not a ")
    told = await _refusal(any_pool, devices=(Path("/dev/pts/ptmx"),))
    assert told.endswith("/dev/pts/ptmx: it is not a node in /dev itself")
