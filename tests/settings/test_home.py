import stat
import subprocess
import sys
from pathlib import Path

import pytest

from hivemind.settings.home import HomeUnusable, find_home, make_home


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_home_is_where_it_is_said_to_be_first_by_hand_then_by_the_environment() -> None:
    environ = {"HIVEMIND_HOME": "/env", "XDG_DATA_HOME": "/xdg", "HOME": "/user"}
    assert find_home(Path("/given"), environ) == Path("/given")
    assert find_home(None, environ) == Path("/env")
    environ["HIVEMIND_HOME"] = ""
    assert find_home(None, environ) == Path("/xdg/hivemind")
    environ["XDG_DATA_HOME"] = "relative/is/ignored"
    assert find_home(None, environ) == Path("/user/.local/share/hivemind")


def test_the_processs_own_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HIVEMIND_HOME", "/env")
    assert find_home(None) == Path("/env")


def test_the_home_is_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_home(Path("here")) == tmp_path / "here"
    assert find_home(None, {"HIVEMIND_HOME": "~/x"}) == Path.home() / "x"


def test_no_home_anywhere_is_said_so() -> None:
    with pytest.raises(HomeUnusable, match="set HIVEMIND_HOME to a folder"):
        find_home(None, {})
    with pytest.raises(HomeUnusable, match="write its path in full"):
        find_home(Path("~nobody-of-that-name/x"))


def test_a_home_is_made_with_its_parents_for_its_owner_alone(tmp_path: Path) -> None:
    home = tmp_path / "a" / "b"
    make_home(home)
    assert mode(home) == 0o700
    make_home(home)
    assert list(home.iterdir()) == []


def test_an_empty_folder_becomes_its_owners_alone(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o755)
    make_home(home)
    assert mode(home) == 0o700


def test_a_folder_with_files_in_it_only_stops_being_writable_for_others(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    tmp_path.chmod(0o777)
    make_home(tmp_path)
    assert mode(tmp_path) == 0o755


def test_a_shared_folder_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    with pytest.raises(HomeUnusable, match="shared by everybody"):
        make_home(tmp_path)
    assert mode(tmp_path) == 0o1777


def test_a_file_in_the_homes_place_or_above_it_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(HomeUnusable, match=f"{file} is not a folder: choose another"):
        make_home(file)
    with pytest.raises(HomeUnusable, match="Not a directory"):
        make_home(file / "below")


MAKE_AS_SOMEBODY = """
import os, sys
from pathlib import Path
from hivemind.settings.home import HomeUnusable, make_home
if os.geteuid() == 0:
    os.setuid(65534)
try:
    make_home(Path(sys.argv[1]))
except HomeUnusable as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("home", "words"),
    [
        ("/proc/hivemind", "cannot be used"),
        ("/proc/1", "another user's|cannot be used|shared"),
        ("/nowhere-to-write/hivemind", "Permission denied"),
    ],
)
def test_a_home_that_may_not_be_written_is_refused_in_one_line(home: str, words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MAKE_AS_SOMEBODY, home],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert len(done.stdout.splitlines()) == 1
    assert f"the home {home}" in done.stdout
    assert any(word in done.stdout for word in words.split("|"))
    assert not Path("/nowhere-to-write").exists()
