"""A machine that lacks what its own policy names says so before anything starts."""

import resource
from pathlib import Path

import attrs
import pytest

from hivemind.core.policy import Mount, Profile
from hivemind.worker.machine import NotHere, check_machine
from tests.worker.running import confined, shell

PLAIN = Profile(name="lab")


def test_what_is_there_is_fine(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    mounts = (Mount(str(tmp_path), "/data"), Mount(str(tmp_path / "file"), "/data.txt"))
    check_machine(shell("true"), attrs.evolve(PLAIN, root=str(tmp_path), mounts=mounts))
    check_machine(shell("true"), PLAIN)


@pytest.mark.parametrize("name", ["none", "file"])
def test_a_root_that_is_no_folder_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    root = str(tmp_path / name)
    with pytest.raises(NotHere, match=f"root: policy lab of this machine names {root}, which is"):
        check_machine(shell("true"), attrs.evolve(PLAIN, root=root))


def test_a_mount_whose_source_is_missing_is_named(tmp_path: Path) -> None:
    source = str(tmp_path / "none")
    mounts = (Mount(str(tmp_path), "/data"), Mount(source, "/more"))
    with pytest.raises(NotHere, match=f"mounts: policy lab of this machine names {source}, which"):
        check_machine(shell("true"), attrs.evolve(PLAIN, mounts=mounts))


def test_more_open_files_than_the_machine_has_is_never_cut_silently(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 4096))
    check_machine(shell("true", confinement=confined(open_files=4096)), PLAIN)
    with pytest.raises(NotHere, match=r"open_files: the task is to have 4097 and .* limit is 4096"):
        check_machine(shell("true", confinement=confined(open_files=4097)), PLAIN)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, resource.RLIM_INFINITY))
    check_machine(shell("true", confinement=confined(open_files=4097)), PLAIN)
