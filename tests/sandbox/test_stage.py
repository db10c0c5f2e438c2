"""What is put into /task before the start: files of the host, and archives nobody vouches for."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import sandbox
from tests.sandbox.conftest import limits, shell

_LIST = "find . -mindepth 1 ! -name output -printf '%P %y %m %s\\n' | sort"


def _tar(path: Path, *members: tuple[tarfile.TarInfo, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for member, data in members:
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


def _zip(path: Path, *members: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


async def _unpacked(pool: sandbox.Pool, path: Path, script: str = _LIST) -> bytes:
    spec = shell(script, archive=sandbox.Archive(source=path), limits=limits())
    done = await sandbox.run_in(pool, spec)
    assert done.result.exit_code == 0, done.stderr
    return done.stdout


async def test_files_are_copied_under_their_names_and_modes(
    any_pool: sandbox.Pool, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"#!/bin/sh\necho ran\n")
    source.chmod(0o600)
    files = (
        sandbox.StagedFile(source=source, name="tool", mode=0o755),
        sandbox.StagedFile(source=source, name="deep/er/copy"),
    )
    done = await sandbox.run_in(any_pool, shell(f"./tool; echo >>tool; {_LIST}", files=files))
    assert done.stdout.decode().splitlines() == [
        "ran",
        "deep d 755 60",
        "deep/er d 755 60",
        "deep/er/copy f 644 19",
        "tool f 755 20",
    ]
    assert source.read_bytes() == b"#!/bin/sh\necho ran\n"


@pytest.mark.parametrize("name", ["", "/x", "../x", "a/../x", "a//b", "./x", "a\nb", "a\0b"])
def test_a_staged_name_that_is_not_a_plain_relative_path_is_refused(name: str) -> None:
    with pytest.raises(sandbox.BadSpec):
        sandbox.StagedFile(source=Path("/etc/passwd"), name=name)


@pytest.mark.parametrize("mode", [-1, 0o1000, 0o4755])
def test_a_mode_with_more_than_permission_bits_is_refused(mode: int) -> None:
    with pytest.raises(sandbox.BadSpec, match="permission bits"):
        sandbox.StagedFile(source=Path("/x"), name="x", mode=mode)


async def test_a_missing_source_is_one_clear_line(any_pool: sandbox.Pool, tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    files = (sandbox.StagedFile(source=missing, name="x"),)
    with pytest.raises(sandbox.BadSpec, match=f"cannot read {missing}: No such file"):
        await sandbox.run_in(any_pool, shell("true", files=files))


async def test_a_pipe_or_folder_is_no_source(any_pool: sandbox.Pool, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for source in (pipe, tmp_path):
        files = (sandbox.StagedFile(source=source, name="x"),)
        with pytest.raises(sandbox.BadSpec, match="not a regular file"):
            await sandbox.run_in(any_pool, shell("true", files=files))


async def test_two_files_of_one_name_are_refused(any_pool: sandbox.Pool, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x")
    files = (sandbox.StagedFile(source=source, name="x"),) * 2
    with pytest.raises(sandbox.BadSpec, match="taken already"):
        await sandbox.run_in(any_pool, shell("true", files=files))


async def test_inputs_larger_than_the_scratch_space_are_refused(
    any_pool: sandbox.Pool, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(2 << 20))
    files = (sandbox.StagedFile(source=source, name="x"),)
    spec = shell("true", files=files, limits=limits(scratch_bytes=1 << 20))
    with pytest.raises(sandbox.BadSpec, match="scratch space is too small"):
        await sandbox.run_in(any_pool, spec)


async def test_a_read_only_bind_is_seen_and_cannot_be_written(
    any_pool: sandbox.Pool, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "file").write_text("content\n")
    bind = sandbox.ReadOnlyBind(source=folder, target=Path("/inputs/data"))  # type: ignore[arg-type]
    done = await sandbox.run_in(
        any_pool, shell("cat /inputs/data/file; echo x >/inputs/data/new", binds=(bind,))
    )
    assert done.stdout == b"content\n"
    assert b"Read-only" in done.stderr
    assert [path.name for path in folder.iterdir()] == ["file"]


@pytest.mark.parametrize("target", ["/usr/x", "/task/x", "/etc", "/", "x", "/a/../b", "/proc"])
def test_a_bind_over_the_system_is_refused(target: str) -> None:
    with pytest.raises(sandbox.BadSpec):
        sandbox.ReadOnlyBind(source=Path("/tmp"), target=Path(target))  # type: ignore[arg-type]


async def test_a_zip_is_unpacked_with_its_executables(
    any_pool: sandbox.Pool, tmp_path: Path
) -> None:
    tool = zipfile.ZipInfo("bin/tool")
    tool.external_attr = 0o100755 << 16
    path = _zip(tmp_path / "any.name", (tool, b"#!/bin/sh\n"), ("data.txt", b"12345"), ("d/", b""))
    assert (await _unpacked(any_pool, path)).decode().splitlines() == [
        "bin d 755 60",
        "bin/tool f 755 10",
        "d d 755 40",
        "data.txt f 644 5",
    ]


@pytest.mark.parametrize("compression", ["", "gz", "bz2", "xz"])
async def test_a_tar_is_unpacked_whatever_its_compression(
    pool: sandbox.Pool, tmp_path: Path, compression: str
) -> None:
    executable = _member("bin/tool")
    executable.mode = 0o700
    path = _tar(
        tmp_path / "archive",
        (_member(".", tarfile.DIRTYPE), b""),
        (executable, b"abc"),
        (_member("./data.txt"), b"12345"),
        (_member("bin/link", tarfile.SYMTYPE, "../data.txt"), b""),
        (_member("hard", tarfile.LNKTYPE, "data.txt"), b""),
        mode=f"w:{compression}",
    )
    listing = (await _unpacked(pool, path, f"{_LIST}; cat bin/link")).decode().splitlines()
    assert listing == [
        "bin d 755 80",
        "bin/link l 777 11",
        "bin/tool f 755 3",
        "data.txt f 644 5",
        "hard f 644 5",
        "12345",
    ]


def _bomb(path: Path) -> Path:
    return _zip(path, ("bomb", bytes(64 << 20)))


def _tar_bomb(path: Path) -> Path:
    return _tar(path, (_member("bomb"), bytes(64 << 20)), mode="w:gz")


def _zip_of_kind(kind: int, data: bytes) -> Callable[[Path], Path]:
    def build(path: Path) -> Path:
        info = zipfile.ZipInfo("thing")
        info.external_attr = kind << 16
        return _zip(path, (info, data))

    return build


def _encrypted(path: Path) -> Path:
    _zip(path, ("secret", b"x" * 100))
    data = bytearray(path.read_bytes())
    for offset in (data.index(b"PK\x03\x04") + 6, data.index(b"PK\x01\x02") + 8):
        data[offset] |= 1
    path.write_bytes(data)
    return path


def _damaged(path: Path) -> Path:
    _zip(path, ("file", os.urandom(1000)))
    data = bytearray(path.read_bytes())
    data[100] ^= 0xFF
    path.write_bytes(data)
    return path


def _bytes(data: bytes) -> Callable[[Path], Path]:
    def build(path: Path) -> Path:
        path.write_bytes(data)
        return path

    return build


def _members(*members: tuple[tarfile.TarInfo, bytes]) -> Callable[[Path], Path]:
    return lambda path: _tar(path, *members)


_HOSTILE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "traversal in a zip": (lambda path: _zip(path, ("../x", b"")), "leads out of it"),
    "traversal in a tar": (_members((_member("a/../../x"), b"")), "leads out of it"),
    "an absolute name": (_members((_member("/etc/x"), b"")), "leads out of it"),
    "an absolute link": (_members((_member("l", tarfile.SYMTYPE, "/etc"), b"")), "leads out"),
    "a link out": (_members((_member("a/l", tarfile.SYMTYPE, "../../x"), b"")), "leads out"),
    "a link out by a detour": (
        _members(
            (_member("d", tarfile.SYMTYPE, "."), b""),
            (_member("l", tarfile.SYMTYPE, "d/.."), b""),
        ),
        "leads out of it",
    ),
    "a file below a link": (
        _members((_member("l", tarfile.SYMTYPE, "."), b""), (_member("l/x"), b"")),
        "below something not a folder",
    ),
    "a hard link out": (_members((_member("h", tarfile.LNKTYPE, "/etc/passwd"), b"")), "leads out"),
    "a hard link to nothing": (_members((_member("h", tarfile.LNKTYPE, "x"), b"")), "no earlier"),
    "a device": (_members((_member("dev", tarfile.CHRTYPE), b"")), "device or pipe"),
    "a pipe": (_members((_member("p", tarfile.FIFOTYPE), b"")), "device or pipe"),
    "a zipped link out": (_zip_of_kind(0o120777, b"../../etc"), "leads out of it"),
    "a zipped device": (_zip_of_kind(0o020666, b""), "device or pipe"),
    "one name twice": (_members((_member("x"), b""), (_member("./x"), b"")), "twice"),
    "a file that is a folder": (_members((_member("x"), b""), (_member("x/y"), b"")), "below"),
    "a newline in a name": (_members((_member("a\nb"), b"")), "control characters"),
    "a zip bomb": (_bomb, "times its size"),
    "a tar bomb": (_tar_bomb, "times its size"),
    "an encrypted zip": (_encrypted, "encrypted"),
    "a damaged zip": (_damaged, "damaged|cannot be unpacked"),
    "a truncated gzip": (_bytes(gzip.compress(os.urandom(5000))[:-900]), "damaged"),
    "not an archive": (_bytes(b"hello world\n" * 100), "not a zip or tar"),
    "an empty file": (_bytes(b""), "not a zip or tar"),
    "an empty zip": (lambda path: _zip(path), "is empty"),
    "an empty tar": (_members(), "is empty"),
}


@pytest.mark.parametrize("case", _HOSTILE)
async def test_a_hostile_archive_is_refused_in_one_line(
    pool: sandbox.Pool, tmp_path: Path, case: str
) -> None:
    build, words = _HOSTILE[case]
    spec = shell(
        "echo ran",
        archive=sandbox.Archive(source=build(tmp_path / "archive")),
        limits=limits(scratch_bytes=256 << 20),
    )
    with pytest.raises(sandbox.BadArchive, match=words) as caught:
        await sandbox.run_in(pool, spec)
    assert "\n" not in str(caught.value)


async def test_an_archive_with_too_many_bytes_or_members_is_refused(
    pool: sandbox.Pool, tmp_path: Path
) -> None:
    path = _zip(tmp_path / "archive", *((f"{number}", b"xxxx") for number in range(10)))
    for archive, words in (
        (sandbox.Archive(source=path, max_bytes=39), "more than 39 bytes"),
        (sandbox.Archive(source=path, max_members=9), "more than 9 members"),
    ):
        with pytest.raises(sandbox.BadArchive, match=words):
            await sandbox.run_in(pool, shell("true", archive=archive))


async def test_an_archive_larger_than_the_scratch_space_is_refused(
    any_pool: sandbox.Pool, tmp_path: Path
) -> None:
    path = _zip(tmp_path / "archive", ("x", os.urandom(2 << 20)))
    spec = shell("true", archive=sandbox.Archive(source=path), limits=limits(scratch_bytes=1 << 20))
    with pytest.raises(sandbox.BadArchive, match="scratch space is too small"):
        await sandbox.run_in(any_pool, spec)


async def test_a_link_of_an_archive_never_leads_a_staged_file_astray(
    any_pool: sandbox.Pool, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x")
    path = _tar(tmp_path / "archive", (_member("a", tarfile.SYMTYPE, "b"), b""))
    for name in ("a", "a/x"):
        spec = shell(
            "true",
            archive=sandbox.Archive(source=path),
            files=(sandbox.StagedFile(source=source, name=name),),
        )
        with pytest.raises(sandbox.BadSpec):
            await sandbox.run_in(any_pool, spec)


async def test_an_archive_may_bring_the_output_folder(
    any_pool: sandbox.Pool, tmp_path: Path
) -> None:
    path = _zip(tmp_path / "archive", ("output/given", b"x"))
    assert await _unpacked(any_pool, path, "ls output") == b"given\n"
