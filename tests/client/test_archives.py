"""An archive is looked into before it is sent; one that cannot be used is told in one line."""

import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from hivemind.client.archives import is_empty_tar, list_archive
from hivemind.client.errors import BadProgram

FILES = {"main.py": b"print(1)", "hivemind.toml": b"memory = '1G'", "pkg/mod.py": b""}


def make_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def make_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("mode", ["zip", "w", "w:gz", "w:bz2", "w:xz"])
def test_each_kind_is_known_by_its_content_and_listed(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "nameless"
    if mode == "zip":
        make_zip(path, FILES)
    else:
        make_tar(path, FILES, mode)
    listing = list_archive(path, "hivemind.toml")
    assert set(listing.names) == set(FILES)
    assert listing.manifest == FILES["hivemind.toml"]


def test_names_that_tar_begins_with_a_dot_are_plain(tmp_path: Path) -> None:
    path = make_tar(tmp_path / "x.tar", {"./main.py": b"", "./hivemind.toml": b"x"})
    listing = list_archive(path, "hivemind.toml")
    assert listing.names == ("main.py", "hivemind.toml")
    assert listing.manifest == b"x"


def test_an_empty_archive_is_told(tmp_path: Path) -> None:
    for path in (make_zip(tmp_path / "e.zip", {}), make_tar(tmp_path / "e.tar", {})):
        with pytest.raises(BadProgram, match="the archive is empty"):
            list_archive(path, "hivemind.toml")


def test_a_tar_without_members_is_known_by_its_zeros() -> None:
    assert is_empty_tar(bytes(10240))
    assert not is_empty_tar(bytes(10))
    assert not is_empty_tar(bytes(511) + b"x")


def test_a_damaged_or_half_archive_is_told(tmp_path: Path) -> None:
    whole = make_zip(tmp_path / "a.zip", FILES).read_bytes()
    packed = make_tar(tmp_path / "a.tgz", {"main.py": bytes(range(256)) * 99}, "w:gz").read_bytes()
    for data in (whole[: len(whole) // 2], packed[: len(packed) // 2], b"\x1f\x8bnonsense"):
        path = tmp_path / "damaged"
        path.write_bytes(data)
        with pytest.raises(BadProgram, match="not a whole zip or tar") as caught:
            list_archive(path, "hivemind.toml")
        assert "\n" not in str(caught.value)


def test_an_encrypted_zip_is_told(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"main.py": b"x"})
    data = bytearray(path.read_bytes())
    data[6] |= 1  # the flag of the local header, then of the central directory
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(BadProgram, match="encrypted"):
        list_archive(path, "hivemind.toml")
