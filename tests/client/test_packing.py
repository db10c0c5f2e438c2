"""A folder becomes a tar that is exact, the same every time, and never leads out of the folder."""

import io
import os
import socket
import tarfile
from pathlib import Path

import pytest

from hivemind.client.errors import BadProgram
from hivemind.client.packing import plan_folder, read_as_tar
from hivemind.core.messages import UPLOAD_CHUNK_BYTES


def _tar_of(folder: Path) -> bytes:
    return b"".join(read_as_tar(plan_folder(folder)))


def _members(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        return {member.name: member for member in archive.getmembers()}


def test_every_file_arrives_with_its_bytes_and_its_executable_bit(tmp_path: Path) -> None:
    (tmp_path / "pkg").mkdir()
    (tmp_path / "main.py").write_bytes(b"print(1)\n")
    (tmp_path / "pkg/data.bin").write_bytes(os.urandom(600_000))
    (tmp_path / "run.sh").write_text("#!/bin/sh\n")
    (tmp_path / "run.sh").chmod(0o755)
    (tmp_path / "empty").touch()
    data = _tar_of(tmp_path)
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        for name in ("main.py", "pkg/data.bin", "run.sh", "empty"):
            file = archive.extractfile(name)
            assert file is not None
            assert file.read() == (tmp_path / name).read_bytes()
    members = _members(data)
    assert members["run.sh"].mode == 0o755
    assert members["main.py"].mode == 0o644
    assert members["pkg"].isdir()


def test_the_announced_length_is_the_length_and_pieces_fit_a_message(tmp_path: Path) -> None:
    (tmp_path / ("long" * 40 + ".txt")).write_bytes(b"x" * 513)
    (tmp_path / "ünïcode.txt").write_bytes(b"y" * UPLOAD_CHUNK_BYTES * 2)
    plan = plan_folder(tmp_path)
    pieces = list(read_as_tar(plan))
    assert sum(map(len, pieces)) == plan.tar_bytes
    assert max(map(len, pieces)) <= UPLOAD_CHUNK_BYTES
    assert set(_members(b"".join(pieces))) == {"long" * 40 + ".txt", "ünïcode.txt"}


def test_the_same_folder_gives_the_same_bytes_whatever_its_times_and_order(tmp_path: Path) -> None:
    for folder, names in (("one", ("b", "a", "c")), ("two", ("c", "b", "a"))):
        (tmp_path / folder).mkdir()
        for name in names:
            (tmp_path / folder / name).write_text(name)
    os.utime(tmp_path / "two/a", (1, 1))
    assert _tar_of(tmp_path / "one") == _tar_of(tmp_path / "two")


def test_version_control_caches_and_environments_stay_behind_at_any_depth(tmp_path: Path) -> None:
    for name in (".git", "__pycache__", ".venv", "pkg/__pycache__"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "x").touch()
    (tmp_path / "pkg/mod.py").touch()
    assert set(_members(_tar_of(tmp_path))) == {"pkg", "pkg/mod.py"}


def test_links_that_stay_inside_are_kept_and_hold_anywhere(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/file").write_text("x")
    (tmp_path / "a/b/up").symlink_to("../file")
    (tmp_path / "absolute").symlink_to(tmp_path / "a/file")
    (tmp_path / "roundabout").symlink_to("a/../a/file")
    members = _members(_tar_of(tmp_path))
    assert members["a/b/up"].linkname == "../file"
    assert members["absolute"].linkname == "a/file"
    assert members["roundabout"].linkname == "a/file"


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside", "a/../../outside"])
def test_a_link_that_leaves_the_folder_is_refused(tmp_path: Path, target: str) -> None:
    folder = tmp_path / "project"
    (folder / "a").mkdir(parents=True)
    (folder / "main.py").touch()
    (folder / "link").symlink_to(target)
    with pytest.raises(BadProgram, match="leads out of the folder"):
        plan_folder(folder)


def test_a_folder_without_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty/deeper").mkdir(parents=True)
    with pytest.raises(BadProgram, match="the folder is empty"):
        plan_folder(tmp_path / "empty")


def test_a_socket_or_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadProgram, match="socket, pipe or device"):
        plan_folder(tmp_path)
    (tmp_path / "pipe").unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        with pytest.raises(BadProgram, match="socket, pipe or device"):
            plan_folder(tmp_path)


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    Path(os.fsdecode(bytes(tmp_path) + b"/\xff")).touch()
    with pytest.raises(BadProgram, match="not UTF-8"):
        plan_folder(tmp_path)


@pytest.mark.parametrize("size", [1, 3])
def test_a_file_that_changes_its_size_while_it_is_sent_is_told(tmp_path: Path, size: int) -> None:
    (tmp_path / "a").write_bytes(b"12")
    plan = plan_folder(tmp_path)
    (tmp_path / "a").write_bytes(b"x" * size)
    with pytest.raises(BadProgram, match="changed while it was sent"):
        list(read_as_tar(plan))


def test_a_file_that_vanishes_while_it_is_sent_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12")
    plan = plan_folder(tmp_path)
    (tmp_path / "a").unlink()
    with pytest.raises(BadProgram, match="cannot be read"):
        list(read_as_tar(plan))
