"""Archives that nobody vouches for: each is refused in one line, before the task starts."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable

import pytest

import sandbox
from tests.abuse.arena import Arena, Seen, case, limits

_Member = tuple[tarfile.TarInfo, bytes]


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    return member


def _tar(*members: _Member, form: int = tarfile.PAX_FORMAT) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=form) as archive:
        for member, data in members:
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return target.getvalue()


def _zip(*members: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return target.getvalue()


def _zip_of_kind(kind: int, data: bytes) -> bytes:
    info = zipfile.ZipInfo("thing")
    info.external_attr = kind << 16
    return _zip((info, data))


async def _refused(arena: Arena, data: bytes, words: str, **given: int) -> None:
    spec = arena.shell_spec(
        "echo ran",
        archive=sandbox.Archive(source=arena.host_file(data), **given),
        limits=limits(scratch_bytes=256 << 20),
    )
    with pytest.raises(sandbox.BadArchive, match=words) as caught:
        await arena.run(spec)
    assert "\n" not in str(caught.value)
    assert str(caught.value).isprintable()


async def _run_unless_refused(arena: Arena, spec: sandbox.Spec, words: str) -> Seen | None:
    try:
        return await arena.run(spec)
    except sandbox.BadArchive as error:
        if re.search(words, str(error)) is None:
            raise
        return None


async def _all_refused(arena: Arena, cases: Iterable[tuple[bytes, str]]) -> None:
    for data, words in cases:
        await _refused(arena, data, words)


@case(43)
async def test_a_member_that_climbs_is_refused(arena: Arena) -> None:
    await _all_refused(
        arena,
        (
            (_tar((_member("../x"), b"")), "leads out"),
            (_tar((_member("a/../../x"), b"")), "leads out"),
            (_tar((_member(f"{arena.folder}/x"), b"")), "leads out"),
            (_zip(("../x", b"")), "leads out"),
            (_zip(("/etc/x", b"")), "leads out"),
            (_zip(("a/../../../x", b"")), "leads out"),
        ),
    )


@case(44)
async def test_a_link_that_leads_out_is_refused(arena: Arena) -> None:
    link = tarfile.SYMTYPE
    await _all_refused(
        arena,
        (
            (_tar((_member("l", link, "/etc"), b"")), "leads out"),
            (_tar((_member("l", link, str(arena.canary.file)), b"")), "leads out"),
            (_tar((_member("a/l", link, "../../x"), b"")), "leads out"),
            (_tar((_member("d", link, "."), b""), (_member("l", link, "d/.."), b"")), "leads out"),
            (_tar((_member("l", link, "."), b""), (_member("l/x"), b"x")), "below"),
            (_zip_of_kind(0o120777, b"../../etc"), "leads out"),
            (_zip_of_kind(0o120777, b"/etc"), "leads out"),
        ),
    )


@case(45)
async def test_a_hard_link_out_is_refused(arena: Arena) -> None:
    kind = tarfile.LNKTYPE
    await _all_refused(
        arena,
        (
            (_tar((_member("h", kind, "/etc/passwd"), b"")), "leads out"),
            (_tar((_member("h", kind, "../../etc/passwd"), b"")), "leads out"),
            (_tar((_member("h", kind, "never"), b"")), "no earlier"),
            (_tar((_member("s", tarfile.SYMTYPE, "x"), b""), (_member("h", kind, "s"), b"")), "no"),
        ),
    )


@case(46)
async def test_a_device_or_pipe_is_refused(arena: Arena) -> None:
    await _all_refused(
        arena,
        (
            (_tar((_member("c", tarfile.CHRTYPE), b"")), "device or pipe"),
            (_tar((_member("b", tarfile.BLKTYPE), b"")), "device or pipe"),
            (_tar((_member("p", tarfile.FIFOTYPE), b"")), "device or pipe"),
            (_zip_of_kind(0o020666, b""), "device or pipe"),
            (_zip_of_kind(0o010666, b""), "device or pipe"),
        ),
    )


@case(47)
async def test_a_zip_bomb_is_refused_by_ratio_and_by_bytes(arena: Arena) -> None:
    bomb = _zip(("bomb", bytes(64 << 20)))
    assert len(bomb) < 100_000
    await _refused(arena, bomb, "times its size")
    await _refused(arena, bomb, "more than 1000000 bytes", max_bytes=1_000_000)
    await _refused(arena, bomb, "more than 40000000 bytes", max_ratio=10**6, max_bytes=40_000_000)


def _tiny_members(first: int, count: int) -> bytes:
    blocks = []
    for number in range(first, first + count):
        block = bytearray(512)
        block[0:8] = b"%08d" % number
        block[100:108], block[108:116], block[116:124] = b"0000644\0", b"0000000\0", b"0000000\0"
        block[124:136], block[136:148], block[148:156] = (
            b"0" * 11 + b"\0",
            b"0" * 11 + b"\0",
            b" " * 8,
        )
        block[156:157], block[257:265] = b"0", b"ustar\x0000"
        block[148:156] = b"%06o\0 " % sum(block)
        blocks.append(bytes(block))
    return gzip.compress(b"".join(blocks), 1)


@case(48)
async def test_a_tar_of_a_million_members_is_refused(arena: Arena) -> None:
    """A gzip file may have many parts: the names of the last 990,000 repeat, unread."""
    archive = _tiny_members(0, 10_000) + 99 * _tiny_members(10_000, 10_000)
    await _refused(arena, archive, "more than 3000 members", max_members=3000)


@case(49)
async def test_names_that_collide_or_hold_newlines_are_refused(arena: Arena) -> None:
    await _all_refused(
        arena,
        (
            (_tar((_member("x"), b""), (_member("x"), b"")), "twice"),
            (_tar((_member("x"), b""), (_member("./x"), b"")), "twice"),
            (_tar((_member("x"), b""), (_member("x/y"), b"")), "below"),
            (_tar((_member("x/y"), b""), (_member("x"), b"")), "twice"),
            (_tar((_member("a\nb"), b"")), "control characters"),
            (_tar((_member("a\x1b[2J"), b"")), "control characters"),
            (_zip(("a\nb", b"")), "control characters"),
            (_zip(("x", b""), ("./x", b"")), "twice"),
        ),
    )


def _overlapping(files: int) -> bytes:
    """A zip whose many entries share one run of compressed bytes."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    plain = bytes(2 << 20)
    packed = packer.compress(plain) + packer.flush()
    sizes = (zlib.crc32(plain), len(packed), len(plain))
    head = struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, 0, 8, 0, 0x21, *sizes, 4, 0) + b"0000"
    entries = b"".join(
        struct.pack(
            "<4s6H3I5H2I", b"PK\x01\x02", 20, 20, 0, 8, 0, 0x21, *sizes, 4, 0, 0, 0, 0, 0, 0
        )
        + b"%04d" % number
        for number in range(files)
    )
    body = head + packed
    return (
        body
        + entries
        + struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, files, files, len(entries), len(body), 0)
    )


@case(102)
async def test_a_zip_whose_members_overlap_is_refused(arena: Arena) -> None:
    await _refused(arena, _overlapping(200), "damaged|times its size|cannot be unpacked")


@case(103)
async def test_a_zip_that_lies_about_its_sizes_is_refused(arena: Arena) -> None:
    data = bytearray(_zip(("lie", bytes(50 << 20))))
    for offset in (data.index(b"PK\x03\x04") + 22, data.index(b"PK\x01\x02") + 24):
        data[offset : offset + 4] = (10).to_bytes(4, "little")
    await _refused(arena, bytes(data), "damaged|more than|cannot be unpacked")


@case(104)
async def test_an_archive_that_asks_for_a_giant_dictionary_is_refused(arena: Arena) -> None:
    """Unpacking happens under the task's own limits: what it takes is not the host's."""
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 20}]
    data = bytearray(lzma.compress(_tar((_member("x"), b"x" * 1000)), filters=filters))
    # The block header's filter properties: one byte says how large the dictionary is.
    assert data[14:16] == b"\x21\x01"
    data[16] = 37  # 1.5 GiB
    data[20:24] = zlib.crc32(bytes(data[12:20])).to_bytes(4, "little")
    spec = arena.shell_spec(
        "echo ran", archive=sandbox.Archive(source=arena.host_file(bytes(data)))
    )
    seen = await _run_unless_refused(arena, spec, "memory|damaged")
    if seen is not None:
        # An allocation that nobody touches costs nothing: then it is an archive like any other.
        assert seen.stdout == b"ran\n"
        assert seen.result.usage.memory_peak_bytes < 200 << 20


@case(105)
async def test_a_tar_with_a_header_of_gigabytes_is_refused(arena: Arena) -> None:
    header = _member("x", tarfile.XHDTYPE)
    header.size = 7 << 30
    archive = header.tobuf(tarfile.USTAR_FORMAT) + b"x" * (1 << 20)
    packed = archive + bytes(300 << 20)
    await _refused(arena, archive, "a header of 7516192768 bytes")
    # Nor is one that delivers.
    await _refused(arena, gzip.compress(packed, 1), "a header of 7516192768 bytes")


@case(106)
async def test_a_sparse_member_is_refused(arena: Arena) -> None:
    block = bytearray(_member("sparse", b"S").tobuf(tarfile.GNU_FORMAT))
    block[386:398] = b"%011o\0" % 0
    block[398:410] = b"%011o\0" % 0
    block[483:495] = b"%011o\0" % (1 << 32)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block[:512])
    await _refused(arena, bytes(block) + bytes(1024), "a sparse file")


@case(107)
async def test_layers_of_compression_and_broken_streams_are_refused(arena: Arena) -> None:
    inner = gzip.compress(_tar((_member("x"), b"x")))
    await _all_refused(
        arena,
        (
            (gzip.compress(inner), "damaged|not a"),
            (bz2.compress(bytes(200 << 20)), "damaged|more than|empty|times"),
            (inner[:-12], "damaged"),
            (b"PK\x03\x04" + os.urandom(3000), "damaged"),
            (b"\x1f\x8b" + os.urandom(3000), "damaged|cannot"),
            (b"\xfd7zXZ\0" + os.urandom(3000), "damaged"),
            (os.urandom(3000), "not a zip or tar"),
        ),
    )
