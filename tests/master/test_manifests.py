"""What an archive says of itself is read, and a hostile archive is read no further than that."""

import bz2
import gzip
import io
import lzma
import resource
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hivemind.core.inline_metadata import BLOCK_BYTES
from hivemind.master import manifests
from hivemind.master.manifests import read_manifest

WORDS = b'memory = "64M"\n'


def tar_of(files: dict[str, bytes], mode: str = "w") -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return packed.getvalue()


def zip_of(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return packed.getvalue()


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
@pytest.mark.parametrize("name", ["hivemind.toml", "./hivemind.toml"])
def test_a_tars_file_is_found_however_it_is_packed(mode: str, name: str, tmp_path: Path) -> None:
    packed = tar_of({"main.py": b"x" * 100_000, name: WORDS}, mode)
    assert read_manifest(packed) == WORDS
    path = tmp_path / "archive"
    path.write_bytes(packed)
    assert read_manifest(path) == WORDS


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zips_file_is_found(method: int) -> None:
    assert read_manifest(zip_of({"main.py": b"pass", "hivemind.toml": WORDS}, method)) == WORDS


def test_an_archive_without_one_has_none() -> None:
    for files in ({"main.py": b"pass"}, {"sub/hivemind.toml": WORDS}):
        assert read_manifest(tar_of(files)) is None
        assert read_manifest(zip_of(files)) is None


def test_one_that_is_too_long_is_cut_so_that_it_shows() -> None:
    for pack in (tar_of, zip_of):
        found = read_manifest(pack({"hivemind.toml": b"#" * (3 * BLOCK_BYTES)}))
        assert found is not None
        assert len(found) == BLOCK_BYTES + 1


@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"PK\x03\x04", b"\x1f\x8b", b"BZh9", b"\xfd7zXZ\0"]),
)
def test_any_bytes_are_an_archive_with_or_without_one(data: bytes, head: bytes) -> None:
    assert read_manifest(head + data) is None


@given(st.integers(0, 3000), st.integers(0, 255), st.sampled_from(["w", "w:gz", "w:bz2", "w:xz"]))
def test_a_damaged_tar_is_read_or_not_and_never_raises(at: int, byte: int, mode: str) -> None:
    packed = bytearray(tar_of({"main.py": b"pass", "hivemind.toml": WORDS}, mode))
    packed[at % len(packed)] = byte
    read_manifest(bytes(packed))
    read_manifest(bytes(packed[: at % len(packed)]))


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_a_bomb_is_unpacked_no_further_than_the_limit(
    pack: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(pack)
    monkeypatch.setattr(manifests, "MOST_UNPACKED_BYTES", 1024 * 1024)
    bomb = pack(tar_of({"zeros": bytes(30_000_000), "hivemind.toml": WORDS}))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert read_manifest(bomb) is None
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 * 1024
    monkeypatch.setattr(manifests, "MOST_UNPACKED_BYTES", 64 * 1024 * 1024)
    assert read_manifest(bomb) == WORDS


def test_a_zip_with_a_large_directory_is_not_read() -> None:
    names = {f"{number:0200}": b"" for number in range(8000)}
    packed = zip_of({**names, "hivemind.toml": WORDS}, zipfile.ZIP_STORED)
    assert read_manifest(packed) is None


def test_a_zip_that_announces_another_directory_by_zip64_is_not_read() -> None:
    packed = zip_of({"hivemind.toml": WORDS})
    end = packed.rindex(b"PK\x05\x06")
    locator = b"PK\x06\x07" + bytes(16)
    assert read_manifest(packed[:end] + locator + packed[end:]) is None


def test_a_zip_whose_member_is_packed_in_another_way_is_not_read() -> None:
    for method in (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):
        assert read_manifest(zip_of({"hivemind.toml": WORDS}, method)) is None
