"""What must hold of the tree itself."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

TOP_LEVEL = {
    "hivemind",
    "proto",
    "sandbox",
    "policies",
    "tests",
    "tools",
    "pyproject.toml",
    "justfile",
    "README.md",
    "LICENSE",
}


def tracked() -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return listed.stdout.split("\n")[:-1]


def test_the_top_level_holds_what_belongs_there() -> None:
    tops = {name.split("/")[0] for name in tracked()}
    assert {top for top in tops if not top.startswith(".")} == TOP_LEVEL


def test_no_file_is_named_for_what_nobody_could_name() -> None:
    vague = {"utils.py", "helpers.py", "common.py", "misc.py"}
    assert [name for name in tracked() if Path(name).name in vague] == []


def test_no_source_file_needs_a_second_sitting() -> None:
    long = {
        name: lines
        for name in tracked()
        if name.endswith(".py") and not name.startswith("tests/") and "/_pb/" not in name
        if (lines := len((ROOT / name).read_text().splitlines())) > 500
    }
    assert long == {}


def test_every_package_says_what_lives_in_it() -> None:
    silent = [
        name
        for name in tracked()
        if re.fullmatch(r"(hivemind|sandbox)(/[a-z]+)*/__init__\.py", name)
        and not (ROOT / name).read_text().lstrip().startswith('"""')
    ]
    assert silent == []


def test_nothing_imports_asyncio_or_threading() -> None:
    pattern = re.compile(r"^\s*(import|from) (asyncio|threading)\b", re.MULTILINE)
    offenders = [
        name
        for name in tracked()
        if name.endswith(".py") and name.startswith(("hivemind/", "sandbox/"))
        if "/_pb/" not in name and pattern.search((ROOT / name).read_text())
    ]
    assert offenders == []


def test_every_test_file_of_a_room_mirrors_a_module() -> None:
    rooms = ("core", "store", "settings", "master", "worker", "client")
    orphans = []
    for name in tracked():
        match = re.fullmatch(r"tests/(\w+)/test_(\w+)\.py", name)
        if match is None or match[1] not in rooms:
            continue
        room = ROOT / "hivemind" / match[1]
        stems = {path.stem.lstrip("_") for path in room.rglob("*.py")}
        if not any(match[2] == stem or match[2].startswith(f"{stem}_") for stem in stems):
            orphans.append(name)
    assert orphans == []
