import os
import subprocess
import sys
from pathlib import Path

import apsw
import pytest

from hivemind.store.api import Corrupt, StoreError
from hivemind.store.lock import Locked
from hivemind.store.opening import NewerSchema, NotOurs, Unusable
from hivemind.store.schema import read_migrations
from hivemind.store.sqlite import open_sqlite_store
from tests.store.records import new_task, submit


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


async def open_and_close(path: Path) -> None:
    async with open_sqlite_store(path) as store:
        await store.load()


async def refused(path: Path, kind: type[StoreError], words: str) -> None:
    """Opening fails with one line that names the file, and leaves the file as it is."""
    before = path.read_bytes() if path.is_file() else None  # noqa: ASYNC240
    beside = sorted(file.name for file in path.parent.iterdir())
    with pytest.raises(kind, match=words) as caught:
        await open_and_close(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert (path.read_bytes() if path.is_file() else None) == before  # noqa: ASYNC240
    left = {file.name for file in path.parent.iterdir()} - {*beside, "store.db.lock"}
    assert not left


@pytest.mark.parametrize("content", [b"x", b"hello world\n", b"PK\x03\x04" * 3000, b"SQLite"])
async def test_a_file_that_is_no_database_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)  # noqa: ASYNC240
    await refused(path, NotOurs, "not a database")


async def test_another_programs_database_is_refused(path: Path) -> None:
    other = apsw.Connection(str(path))
    other.execute("CREATE TABLE mine (a); INSERT INTO mine VALUES (1)")
    other.close()
    await refused(path, NotOurs, "another program")
    other = apsw.Connection(str(path))
    other.pragma("application_id", 12345)
    other.close()
    await refused(path, NotOurs, "another program")


async def test_a_newer_versions_database_is_refused(path: Path) -> None:
    await open_and_close(path)
    newer = apsw.Connection(str(path))
    newer.pragma("user_version", len(read_migrations()) + 1)
    newer.close()
    await refused(path, NewerSchema, "newer version.*install that version")


async def test_a_newer_versions_database_that_was_not_closed_is_left_as_it_is(path: Path) -> None:
    await open_and_close(path)
    program = (
        "import apsw, os, sys; c = apsw.Connection(sys.argv[1]);"
        "c.pragma('user_version', 1000); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", program, path], check=True)  # noqa: ASYNC221
    log = path.with_name("store.db-wal")
    before = log.read_bytes()
    assert before
    await refused(path, NewerSchema, "schema 1000")
    assert log.read_bytes() == before


@pytest.mark.parametrize("begin", [100, 4096, 20_000])
async def test_a_damaged_database_is_refused(path: Path, begin: int) -> None:
    async with open_sqlite_store(path) as store:
        await store.commit(submit(*(new_task(f"t{number}") for number in range(500))))
    content = bytearray(path.read_bytes())  # noqa: ASYNC240
    content[begin : begin + 9000] = b"\xff" * 9000
    path.write_bytes(content)  # noqa: ASYNC240
    await refused(path, Corrupt, "damaged.*restore a copy")


async def test_a_database_that_was_cut_short_is_refused(path: Path) -> None:
    async with open_sqlite_store(path) as store:
        await store.commit(submit(*(new_task(f"t{number}") for number in range(500))))
    os.truncate(path, path.stat().st_size // 2)  # noqa: ASYNC240
    await refused(path, Corrupt, "damaged")


async def test_a_folder_in_the_databases_place_is_refused(path: Path) -> None:
    path.mkdir()  # noqa: ASYNC240
    await refused(path, Unusable, "Is a directory.*--home")


async def test_a_place_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match="No such file or directory"):
        await open_and_close(tmp_path / "nowhere" / "store.db")
    assert not (tmp_path / "nowhere").exists()


async def test_a_place_that_may_not_be_written_is_refused() -> None:
    # Not even root can make a file in /proc.
    with pytest.raises(Unusable, match="cannot be opened"):
        await open_and_close(Path("/proc/store.db"))


async def test_a_second_master_is_refused_and_told_who_is_there(path: Path) -> None:
    async with open_sqlite_store(path) as store:
        with pytest.raises(Locked, match=f"pid {os.getpid()}: stop it") as caught:
            await open_and_close(path)
        assert caught.value.pid == os.getpid()
        await store.commit(submit(new_task("a")))
    await open_and_close(path)


async def test_a_store_that_was_closed_early_lets_the_next_one_in(path: Path) -> None:
    async with open_sqlite_store(path) as first:
        await first.close()
        async with open_sqlite_store(path) as second:
            await second.commit(submit(new_task("a")))
            # Leaving the first one's block later must not take the second one's lock away.
            with pytest.raises(Locked):
                await open_and_close(path)


async def test_a_database_that_another_program_holds_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await open_and_close(path)
    monkeypatch.setattr("hivemind.store.opening.BUSY_WITHIN_MS", 10)
    other = apsw.Connection(str(path))
    other.pragma("locking_mode", "exclusive")
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(Locked, match="another process"):
        await open_and_close(path)
    other.close()
    await open_and_close(path)


async def test_an_empty_file_becomes_a_store(path: Path) -> None:
    path.touch()  # noqa: ASYNC240
    await open_and_close(path)


OPEN = """
import sys
from pathlib import Path
import trio
from hivemind.store.api import StoreError
from hivemind.store.sqlite import open_sqlite_store

async def main():
    async with open_sqlite_store(Path(sys.argv[1])):
        pass

try:
    trio.run(main)
except StoreError as error:
    print("refused:", error)
"""


def test_a_process_that_was_refused_a_database_ends(path: Path) -> None:
    # Refused when a connection, with its thread, is open already.
    apsw.Connection(str(path)).execute("CREATE TABLE mine (a)")
    done = subprocess.run(
        [sys.executable, "-c", OPEN, path], capture_output=True, text=True, timeout=60, check=True
    )
    assert "refused:" in done.stdout
