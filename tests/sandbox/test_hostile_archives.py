"""Archives built to hurt whoever unpacks them, beyond what every archiver can write."""

from __future__ import annotations

import gzip
import io
import os
import random
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

import sandbox
from sandbox.spawner import archive as unpacking
from sandbox.spawner.capped import StrictMember
from sandbox.spawner.stage import StageError
from tests.sandbox.conftest import limits, shell

_LIMITS = unpacking.Limits(max_bytes=64 << 20, max_members=100, max_ratio=200)


def _header(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0) -> bytes:
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, size
    return member.tobuf(tarfile.GNU_FORMAT)


def _file(name: str, data: bytes) -> bytes:
    return _header(name, size=len(data)) + data + bytes(-len(data) % 512)


def _pax(kind: bytes, **records: str) -> bytes:
    body = b""
    for key, value in records.items():
        text = f" {key.replace('__', '.')}={value}\n".encode()
        length = len(text)
        while length != len(text) + len(str(length)):
            length = len(text) + len(str(length))
        body += str(length).encode() + text
    return _header("pax", kind, len(body)) + body + bytes(-len(body) % 512)


_END = bytes(1024)


def _old_sparse() -> bytes:
    """GNU's own format: 16 bytes of data in a file of a terabyte."""
    block = bytearray(_header("sparse", tarfile.GNUTYPE_SPARSE, 16))
    block[386:410] = b"%011o\0%011o\0" % (0, 16)
    block[482] = 0
    block[483:495] = b"\x80" + (1 << 40).to_bytes(11, "big")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + b"x" * 16 + bytes(496) + _END


def _sparse(version: str) -> bytes:
    if version == "1.0":
        head = _pax(
            tarfile.XHDTYPE,
            GNU__sparse__major="1",
            GNU__sparse__minor="0",
            GNU__sparse__realsize=str(1 << 40),
        )
        return head + _file("s", b"1\n0\n16\n".ljust(512, b"\0") + b"x" * 16) + _END
    records = {"GNU__sparse__map": "0,16"} if version == "0.1" else {}
    head = _pax(tarfile.XHDTYPE, GNU__sparse__size=str(1 << 40), **records)
    return head + _file("s", b"x" * 16) + _END


def _central(name: bytes, head: bytes, offset: int) -> bytes:
    crc, packed, size = struct.unpack("<3I", head[14:26])
    fixed = (b"PK\1\2", 20, 20, 0, 8, 0, 33, crc, packed, size, len(name), 0, 0, 0, 0, 0, offset)
    return struct.pack("<4s6H3I5H2I", *fixed) + name


def _with_end(body: bytes, central: bytes, count: int) -> bytes:
    end = (b"PK\5\6", 0, 0, count, count, len(central), len(body), 0)
    return body + central + struct.pack("<4s4H2IH", *end)


def _quoted_overlap(count: int = 90, zeros: int = 1 << 20) -> bytes:
    """Members that share one run of compressed zeros, each quoting the headers that follow it."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    stream, content = packer.compress(bytes(zeros)) + packer.flush(), bytes(zeros)
    heads: list[tuple[bytes, bytes]] = []
    for number in reversed(range(count)):
        name = f"{number:04}".encode()
        fixed = (b"PK\3\4", 20, 0, 8, 0, 33, zlib.crc32(content), len(stream), len(content))
        head = struct.pack("<4s5H3I2H", *fixed, len(name), 0) + name
        heads.insert(0, (name, head))
        body = head + stream
        quoted = struct.pack("<BHH", 0, len(head), len(head) ^ 0xFFFF) + head
        stream, content = quoted + stream, head + content
    step = len(heads[0][1]) + 5
    central = b"".join(_central(name, head, i * step) for i, (name, head) in enumerate(heads))
    return _with_end(body, central, count)


def _long_list() -> bytes:
    """A list of 100 000 members in a zip that says it has one."""
    head = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 8, 0, 33, 0, 0, 0, 4, 0) + b"name"
    return _with_end(head, _central(b"name", head, 0) * 100_000, 1)


def _zipped(*members: tuple[str | zipfile.ZipInfo, bytes], before: bytes = b"") -> bytes:
    target = io.BytesIO(before)
    target.seek(0, io.SEEK_END)
    with zipfile.ZipFile(target, "a", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return target.getvalue()


def _many_files(count: int) -> bytes:
    return b"".join(_file(f"{number}", b"") for number in range(count)) + _END


def _flipped_gzip() -> bytes:
    data = bytearray(gzip.compress(_file("x", b"a" * 5000) + _END, compresslevel=0))
    data[2000] ^= 1  # a byte of content: only the checksum behind the end tells
    return bytes(data)


def _damaged_header() -> bytes:
    data = bytearray(_file("first", b"1") + _file("second", b"2") + _END)
    data[1024 + 10] ^= 1
    return bytes(data)


_BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "an old sparse file of a terabyte": (_old_sparse, "sparse file: 'sparse'"),
    "a sparse file of format 0.0": (lambda: _sparse("0.0"), "sparse|damaged"),
    "a sparse file of format 0.1": (lambda: _sparse("0.1"), "sparse file"),
    "a sparse file of format 1.0": (lambda: _sparse("1.0"), "sparse file"),
    "a pax header of 40 MiB": (
        lambda: gzip.compress(_pax(tarfile.XHDTYPE, comment="x" * (40 << 20)) + _file("x", b"")),
        "header of 41943",
    ),
    "a global pax header of 40 MiB": (
        lambda: gzip.compress(_pax(tarfile.XGLTYPE, comment="x" * (40 << 20)) + _file("x", b"")),
        "header of 41943",
    ),
    "a long name that claims 8 GiB": (
        lambda: _header("././@LongLink", tarfile.GNUTYPE_LONGNAME, 8 << 30) + b"x" * 512,
        "header of 8589934592 bytes",
    ),
    "pax headers without end": (
        lambda: _pax(tarfile.XHDTYPE, comment="x") * 5000 + _file("x", b"") + _END,
        "cannot be unpacked|damaged",
    ),
    "a negative size": (
        lambda: _pax(tarfile.XHDTYPE, size="-512") + _file("x", b"") + _END,
        "damaged",
    ),
    "a size that is no number": (
        lambda: _pax(tarfile.XHDTYPE, size="x") + _file("x", b"xxx") + b"y" * 512,
        "damaged",
    ),
    "a damaged header amid others": (_damaged_header, "damaged: bad checksum"),
    "a tar that was cut off between members": (lambda: _file("x", b"1"), "before its closing"),
    "a tar that was cut off within a member": (lambda: _file("x", bytes(5000))[:3000], "damaged"),
    "a gzip whose checksum is wrong": (_flipped_gzip, "CRC|damaged"),
    "a tar of too many members": (lambda: _many_files(101), "more than 100 members"),
    "folders without end in a tar": (
        lambda: _pax(tarfile.XHDTYPE, path="d/" * 2500 + "x") + _file("x", b"") + _END,
        "more than 128 deep",
    ),
    "folders without end in a zip": (
        lambda: _zipped(("d/" * 2500 + "x", b"")),
        "more than 128 deep",
    ),
    "a name longer than a file may have": (
        lambda: _zipped(("x" * 300, b"")),
        "File name too long",
    ),
    "a hard link to a symbolic one": (
        lambda: (
            _pax(tarfile.XHDTYPE, linkpath="x")
            + _header("link", tarfile.SYMTYPE)
            + _pax(tarfile.XHDTYPE, linkpath="link")
            + _header("hard", tarfile.LNKTYPE)
            + _END
        ),
        "names no earlier file",
    ),
    "a line separator in a name": (lambda: _zipped(("a\u2028b", b"")), "control characters"),
    "a terminal command in a name": (lambda: _zipped(("a\x9b31m", b"")), "control characters"),
    "a NUL in a name": (
        lambda: _zipped(("aXb", b"")).replace(b"aXb", b"a\0b"),
        "NUL|differ",
    ),
    "one name twice in a zip": (
        lambda: _with_end(*_twice(), 2),
        "twice",
    ),
    "a name that differs in its two places": (
        lambda: _zipped(("harmless", b"x")).replace(b"harmless", b"../../xx", 1),
        "damaged",
    ),
    "members that overlap": (_quoted_overlap, "times its size|[Oo]verlap"),
    "a list of members that lies about its length": (_long_list, "list of members is too long"),
    "a zip behind something else": (
        lambda: _zipped(("x", b""), before=b"#!/bin/sh\n"),
        "not a zip or tar",
    ),
    "a truncated zip": (lambda: _zipped(("x", os.urandom(100)))[:-30], "damaged"),
    "an unknown compression": (
        lambda: _zipped(("x", b"x" * 100)).replace(b"\x08\x00", b"\x63\x00"),
        "cannot be unpacked",
    ),
    "a link with control characters": (
        lambda: (
            _pax(tarfile.XHDTYPE, linkpath="a\x1b[2J") + _header("link", tarfile.SYMTYPE) + _END
        ),
        "control characters",
    ),
}


def _twice() -> tuple[bytes, bytes]:
    head = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 0, 0, 33, 0, 0, 0, 1, 0) + b"x"
    return head * 2, _central(b"x", head, 0) + _central(b"x", head, len(head))


def _unpack(path: Path, data: bytes, limits: unpacking.Limits = _LIMITS) -> Path:
    """Unpack as the spawner's child does, in this process."""
    path.mkdir()
    source = path.with_name("archive")
    source.write_bytes(data)
    unpacking.unpack(os.open(source, os.O_RDONLY), str(path), limits)
    return path


@pytest.mark.parametrize("case", _BOMBS)
def test_an_archive_built_to_hurt_is_refused_as_such(tmp_path: Path, case: str) -> None:
    build, words = _BOMBS[case]
    with pytest.raises(StageError, match=words) as caught:
        _unpack(tmp_path / "task", build())
    assert caught.value.kind == "archive"
    used = sum(path.lstat().st_blocks * 512 for path in tmp_path.rglob("task/**/*"))
    assert used <= 34 << 20


@pytest.mark.parametrize("case", ["an old sparse file of a terabyte", "members that overlap"])
async def test_so_it_is_in_a_real_run(any_pool: sandbox.Pool, tmp_path: Path, case: str) -> None:
    build, words = _BOMBS[case]
    path = tmp_path / "archive"
    path.write_bytes(build())
    spec = shell("echo ran", archive=sandbox.Archive(source=path), limits=limits())
    with pytest.raises(sandbox.BadArchive, match=f"{words}|too small"):
        await sandbox.run_in(any_pool, spec)
    assert (await sandbox.run_in(any_pool, shell("ls"))).stdout == b"output\n"


@pytest.mark.parametrize("seed", range(4))
def test_whatever_bytes_are_changed_an_archive_is_unpacked_or_refused(
    tmp_path: Path, seed: int
) -> None:
    """What the standard library raises on the way must never pass for a fault of the sandbox."""
    changes = random.Random(seed)
    sources = [
        _zipped(("a/b", b"x" * 2000), ("c", b"y")),
        _file("a/b", b"x" * 2000) + _pax(tarfile.XHDTYPE, path="c") + _file("x", b"y") + _END,
        gzip.compress(_file("a/b", b"x" * 2000) + _END, mtime=0),
        _old_sparse(),
        _sparse("1.0"),
    ]
    kinds: list[str] = []
    for number in range(150):
        data = bytearray(changes.choice(sources))
        for _ in range(changes.randrange(1, 8)):
            data[changes.randrange(len(data))] = changes.randrange(256)
        try:
            _unpack(tmp_path / f"{number}", bytes(data[: changes.randrange(len(data)) or None]))
        except StageError as error:
            kinds.append(error.kind)
        for path in (tmp_path / f"{number}").rglob("*"):
            assert path.is_dir() or path.is_file()
    assert set(kinds) == {"archive"}
    assert len(kinds) > 50
    assert {path.name for path in tmp_path.iterdir()} == {"archive", *map(str, range(150))}


def test_newer_releases_of_tarfile_are_held_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """They read headers by another way, which this release does not have."""
    plain = tarfile.TarInfo.frombuf.__func__  # type: ignore[attr-defined]
    newer = classmethod(lambda cls, buf, encoding, errors, **_: plain(cls, buf, encoding, errors))
    monkeypatch.setattr(tarfile.TarInfo, "_frombuf", newer, raising=False)
    for data, words in (
        (_old_sparse()[:512], "sparse"),
        (b"", "closing record"),
        (b"x" * 512, "damaged"),
        (_header("x", tarfile.XHDTYPE, 8 << 20), "header of"),
    ):
        with pytest.raises(StageError, match=words):
            StrictMember._frombuf(data, "utf-8", "strict", dircheck=False)
    with pytest.raises(tarfile.HeaderError):
        StrictMember._frombuf(bytes(512), "utf-8", "strict")


# What is no harm is no reason to refuse.


async def test_names_that_differ_in_case_or_composition_are_different_files(
    any_pool: sandbox.Pool, tmp_path: Path
) -> None:
    """They collide on other file systems; the task's is a tmpfs, that compares bytes."""
    names = ["README", "readme", *(unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))]
    path = tmp_path / "archive"
    path.write_bytes(_zipped(*((name, str(i).encode()) for i, name in enumerate(names))))
    spec = shell("rmdir output; for f in *; do cat $f; done", archive=sandbox.Archive(source=path))
    done = await sandbox.run_in(any_pool, spec)
    assert sorted(done.stdout.decode()) == ["0", "1", "2", "3"]


async def test_set_id_bits_owners_and_attributes_are_not_taken_over(
    any_pool: sandbox.Pool, tmp_path: Path
) -> None:
    member = tarfile.TarInfo("tool")
    member.mode, member.uid, member.uname = 0o7777, 0, "root"
    member.pax_headers = {"SCHILY.xattr.user.x": "y", "SCHILY.xattr.security.capability": "z"}
    folder = tarfile.TarInfo("folder")
    folder.type, folder.mode = tarfile.DIRTYPE, 0o7000
    path = tmp_path / "archive"
    with tarfile.open(path, "w") as archive:
        archive.addfile(member)
        archive.addfile(folder)
        archive.addfile(folder)  # a folder may come twice
    script = "stat -c '%a %u %n' tool folder; python3 -c 'import os; print(os.listxattr(\"tool\"))'"
    done = await sandbox.run_in(any_pool, shell(script, archive=sandbox.Archive(source=path)))
    assert done.stdout.decode().splitlines() == ["755 1000 tool", "755 1000 folder", "[]"]


def test_a_hundred_members_a_comment_and_zip64_are_honest(tmp_path: Path) -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", allowZip64=True) as archive:
        archive.comment = b"c" * 60_000
        for number in range(100):
            with archive.open(f"{number}", "w", force_zip64=True) as file:
                file.write(b"x")
    task = _unpack(tmp_path / "task", target.getvalue())
    assert len(list(task.iterdir())) == 100


def test_folders_as_deep_as_allowed_and_long_names_are_honest(tmp_path: Path) -> None:
    name = "/".join(["d"] * 128 + ["n" * 200])
    task = _unpack(tmp_path / "task", _pax(tarfile.XHDTYPE, path=name) + _file("x", b"y") + _END)
    assert (task / name).read_bytes() == b"y"
