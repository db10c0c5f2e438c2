"""Spool files: limits, durability in the order of calls, and nothing left behind."""

import errno
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from hivemind.rpc import spool as spool_module
from hivemind.rpc.budget import ByteBudget
from hivemind.rpc.errors import CallRefused
from hivemind.rpc.spool import Spool, current_upload


@pytest.fixture
async def spool(tmp_path: Path) -> Spool:
    made = Spool(folder=tmp_path / "spool", budget=ByteBudget(1000), max_bytes=500)
    await made.sweep()
    return made


def left(spool: Spool) -> list[str]:
    return [path.name for path in spool.folder.iterdir()]


async def test_an_upload_is_removed_unless_it_is_kept(spool: Spool, tmp_path: Path) -> None:
    async with spool.open_file() as file:
        await file.write(b"one ")
        await file.write(b"two")
        assert file.size_bytes == 7
        assert await file.read() == b"one two"
        assert oct(file.path.stat().st_mode & 0o777) == "0o600"
    assert left(spool) == []
    async with spool.open_file(announced_bytes=3) as file:
        await file.write(b"abc")
        kept = await file.keep(tmp_path / "kept")
    assert kept.read_bytes() == b"abc"
    assert left(spool) == []
    assert spool.budget.used_bytes == 0


async def test_an_error_or_a_cancel_leaves_nothing(spool: Spool) -> None:
    with pytest.raises(KeyError):
        await _write_and_raise(spool)
    with trio.CancelScope() as scope:
        async with spool.open_file() as file:
            await file.write(b"x")
            scope.cancel()
            await trio.sleep_forever()
    assert left(spool) == []
    assert spool.budget.used_bytes == 0


async def _write_and_raise(spool: Spool) -> None:
    async with spool.open_file() as file:
        await file.write(b"x")
        raise KeyError


async def test_an_upload_over_the_limit_is_refused_with_the_limit(spool: Spool) -> None:
    with pytest.raises(CallRefused, match="limit of 500 bytes") as caught:
        async with spool.open_file(announced_bytes=501):
            pass
    assert caught.value.status.name == "RESOURCE_EXHAUSTED"
    async with spool.open_file() as file:
        await file.write(b"x" * 500)
        with pytest.raises(CallRefused, match="limit of 500 bytes"):
            await file.write(b"y")
        assert file.size_bytes == 500
    async with spool.open_file(max_bytes=2) as file:
        with pytest.raises(CallRefused, match="limit of 2 bytes"):
            await file.write(b"abc")
    assert left(spool) == []


async def test_keeping_syncs_the_file_before_its_name_and_the_folder_after(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    real_sync, real_rename = os.fsync, Path.rename

    def sync(descriptor: int) -> None:
        link = Path(f"/proc/self/fd/{descriptor}")
        done.append(f"sync {link.readlink().name}")
        real_sync(descriptor)

    def rename(path: Path, target: Path) -> Path:
        done.append(f"rename to {target.name}")
        return real_rename(path, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "rename", rename)
    (tmp_path / "final").mkdir()
    async with spool.open_file() as file:
        name = file.path.name
        await file.write(b"x")
        await file.keep(tmp_path / "final" / "payload")
    assert done == [
        f"sync {name}",
        "sync spool",
        "rename to payload",
        "sync final",
        "sync spool",
    ]


async def test_a_full_disk_is_an_error_and_leaves_nothing(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    async with spool.open_file() as file:
        await file.write(b"x")
        with pytest.raises(OSError, match="No space left"):
            await file.keep()
    assert left(spool) == []


async def test_uploads_without_an_announced_size_share_the_budget(
    spool: Spool, autojump_clock: MockClock
) -> None:
    async with spool.open_file() as one, spool.open_file() as two, spool.open_file() as three:
        await one.write(b"x" * 500)
        await two.write(b"x" * 400)
        with pytest.raises(CallRefused, match="all calls share"):
            await three.write(b"x" * 200)
        await three.write(b"x" * 100)
    assert spool.budget.used_bytes == 0


async def test_filling_from_a_source_that_stalls_is_given_up(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_module, "GRACE_S", 0.05)

    async def chunks() -> AsyncIterator[bytes]:
        yield b"first"
        await trio.sleep_forever()

    async with spool.open_file() as file:
        with trio.fail_after(5), pytest.raises(CallRefused, match="too slow") as caught:
            await file.fill(chunks())
        assert caught.value.status.name == "DEADLINE_EXCEEDED"
    assert left(spool) == []


async def test_filling_takes_every_chunk(spool: Spool) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for number in range(5):
            yield str(number).encode()

    async with spool.open_file() as file:
        await file.fill(chunks())
        await file.finish()
        assert file.path.read_bytes() == b"01234"
        with pytest.raises(ValueError, match="finished"):
            await file.write(b"more")


async def test_a_sweep_removes_what_a_crash_left_and_nothing_else(spool: Spool) -> None:
    (spool.folder / "0123.upload").write_bytes(b"x")
    (spool.folder / "notes").write_bytes(b"y")
    await spool.sweep()
    assert left(spool) == ["notes"]


def test_there_is_no_upload_outside_of_a_call() -> None:
    with pytest.raises(LookupError):
        current_upload()
