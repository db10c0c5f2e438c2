"""Runs as a process of its own: a store on a disk that fails on demand, ended as by kill -9.

The disk's faults come from a SQLite file system that this process makes its default.
"""

import os
import sys
from pathlib import Path
from typing import Any

import apsw
import trio

from hivemind.core.records import Blob
from hivemind.store.api import CommitFailed, OutcomeUnknown
from hivemind.store.changes import Changes, NewTask
from hivemind.store.sqlite import open_sqlite_store
from tests.store.records import new_task, submit


class Faults:
    on_write: type[apsw.Error] | None = None
    on_sync: type[apsw.Error] | None = None


class FaultyFile(apsw.VFSFile):
    def __init__(self, faults: Faults, name: Any, flags: Any) -> None:
        super().__init__("unix", name, flags)
        self._faults = faults
        self._is_log = name is not None and str(getattr(name, "filename", lambda: name)()).endswith(
            "-wal"
        )

    def xWrite(self, data: Any, offset: int) -> None:
        if self._is_log and self._faults.on_write:
            raise self._faults.on_write("as the test wants")
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:
        if self._is_log and self._faults.on_sync:
            raise self._faults.on_sync("as the test wants")
        super().xSync(flags)


class FaultyDisk(apsw.VFS):
    def __init__(self, faults: Faults) -> None:
        super().__init__("faulty", "unix", makedefault=True)
        self._faults = faults

    def xOpen(self, name: Any, flags: Any) -> FaultyFile:
        return FaultyFile(self._faults, name, flags)


def big(id_: str) -> Changes:
    new = new_task(id_)
    return submit(NewTask(task=new.task, spec=b"", payload=Blob(size=60_000, inline=bytes(60_000))))


async def main(path: Path, fault: str, faults: Faults) -> None:
    async with open_sqlite_store(path) as store:
        await store.commit(submit(new_task("before")))
        try:
            if fault == "full":
                faults.on_write = apsw.FullError
            else:
                faults.on_sync = apsw.IOError
            await store.commit(big("during"))
        except (CommitFailed, OutcomeUnknown) as error:
            print(type(error).__name__, error)
        faults.on_write = faults.on_sync = None
        if fault == "sync, reload":
            print([task.id for task in (await store.load()).tasks])
        if fault == "full":
            await store.commit(submit(new_task("after")))
        sys.stdout.flush()
        os._exit(0)


if __name__ == "__main__":
    wanted = Faults()
    disk = FaultyDisk(wanted)
    trio.run(main, Path(sys.argv[1]), sys.argv[2], wanted)
