"""A result's files come out whole and stay in the folder that was named."""

import stat
import zipfile
from pathlib import Path

import pytest

from hivemind.client.errors import BadResult
from hivemind.client.unpacking import Unpacked, unpack_output


def _zip(path: Path, members: dict[str, bytes], mode: int = 0o100644) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            archive.writestr(info, data)
    return path


def test_the_output_folder_comes_out_and_the_rest_stays_in(tmp_path: Path) -> None:
    members = {"output/a.txt": b"A", "output/deep/b.bin": bytes(999), "stdout.txt": b"no"}
    unpacked = unpack_output(_zip(tmp_path / "r.zip", members), tmp_path / "new/out")
    assert unpacked == Unpacked(("a.txt", "deep/b.bin"))
    assert (tmp_path / "new/out/a.txt").read_bytes() == b"A"
    assert (tmp_path / "new/out/deep/b.bin").read_bytes() == bytes(999)
    found = {path.name for path in (tmp_path / "new/out").rglob("*")}
    assert found == {"a.txt", "deep", "b.bin"}


def test_what_the_master_had_to_leave_out_is_told(tmp_path: Path) -> None:
    document = b'{"outputs": "2 outputs were\\n not plain files"}'
    archive = _zip(tmp_path / "r.zip", {"output/a": b"", "result.json": document})
    assert unpack_output(archive, tmp_path / "out").damage == "2 outputs were not plain files"


@pytest.mark.parametrize("document", [b"", b"[]", b"{", b'{"outputs": 3}', b"[" * 100_000])
def test_a_document_that_makes_no_sense_is_not_minded(tmp_path: Path, document: bytes) -> None:
    archive = _zip(tmp_path / "r.zip", {"output/a": b"", "result.json": document})
    assert unpack_output(archive, tmp_path / "out") == Unpacked(("a",))


def test_a_program_stays_executable(tmp_path: Path) -> None:
    unpack_output(_zip(tmp_path / "r.zip", {"output/x": b""}, 0o100755), tmp_path / "out")
    assert (tmp_path / "out/x").stat().st_mode & stat.S_IXUSR


def test_what_was_there_is_replaced_and_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "victim").write_text("mine")
    (tmp_path / "out/a").symlink_to(tmp_path / "victim")
    unpack_output(_zip(tmp_path / "r.zip", {"output/a": b"new"}), tmp_path / "out")
    assert (tmp_path / "victim").read_text() == "mine"
    assert (tmp_path / "out/a").read_text() == "new"
    assert not (tmp_path / "out/a").is_symlink()


@pytest.mark.parametrize(
    "name", ["output/../escaped", "output//etc/x", "output/a/../../x", "output/./x", "output/.."]
)
def test_a_name_that_leads_elsewhere_is_refused_and_nothing_written(
    tmp_path: Path, name: str
) -> None:
    archive = _zip(tmp_path / "r.zip", {"output/good": b"x", name: b"bad"})
    with pytest.raises(BadResult, match="unsafe name"):
        unpack_output(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_folders_without_end_within_each_other_are_refused(tmp_path: Path) -> None:
    archive = _zip(tmp_path / "r.zip", {"output/" + "d/" * 2000 + "x": b""})
    with pytest.raises(BadResult, match="2001 folders"):
        unpack_output(archive, tmp_path / "out")


def test_a_link_in_a_result_is_refused(tmp_path: Path) -> None:
    archive = _zip(tmp_path / "r.zip", {"output/link": b"/etc/passwd"}, 0o120777)
    with pytest.raises(BadResult, match="no plain file"):
        unpack_output(archive, tmp_path / "out")


def test_a_damaged_zip_is_told(tmp_path: Path) -> None:
    path = _zip(tmp_path / "r.zip", {"output/a": b"A" * 1000})
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(data)
    with pytest.raises(BadResult, match="damaged"):
        unpack_output(path, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    archive = _zip(tmp_path / "r.zip", {"output/a": b"A"})
    with pytest.raises(BadResult, match="cannot be written"):
        unpack_output(archive, tmp_path / "file/out")
