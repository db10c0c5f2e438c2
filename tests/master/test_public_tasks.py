"""Uploads when the store fails, or two of them come together; all else is in ``tests/e2e``."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from hivemind.core.policy import PoolRules
from hivemind.master.public_tasks import PublicTasks
from hivemind.master.uploads import Uploads
from hivemind.rpc.auth import Principal
from hivemind.rpc.budget import ByteBudget
from hivemind.rpc.contract.faults import Unsettled
from hivemind.rpc.errors import CallRefused
from hivemind.rpc.spool import Spool
from tests.master.gated import AFTER, BEFORE
from tests.master.pool import Pool, open_pool

ANN = Principal(account="ann", role="user", kind="account", token_id="t", expires_at=9e9)
SCRIPT = b"print('hello')\n#".ljust(200_000, b"x")
"""Too large for a row, so that it has a file."""


@attrs.frozen
class Uploader:
    """Uploads as a call would."""

    pool: Pool
    public: PublicTasks
    spool: Spool

    async def upload(self, task_id: str, data: bytes) -> str:
        async with self.spool.open_file() as file:
            await file.write(data)
            return await self.public.upload(ANN, task_id, "", file)

    def files(self) -> list[Path]:
        """What is kept, and what is still arriving."""
        return [path for path in self.pool.blobs.root.rglob("*") if path.is_file()]


@asynccontextmanager
async def open_uploader(folder: Path) -> AsyncIterator[Uploader]:
    async with open_pool(folder, rules=PoolRules(), nodes=()) as pool:
        spool = Spool(folder=pool.blobs.incoming, budget=ByteBudget(10**9), max_bytes=10**9)
        public = PublicTasks(
            pool.reactor,
            pool.tasks,
            uploads=Uploads(pool.blobs, spool, lambda: 10**9),
            output=pool.output,
            blobs=pool.blobs,
        )
        yield Uploader(pool, public, spool)


async def test_an_upload_that_the_store_refused_leaves_nothing(tmp_path: Path) -> None:
    async with open_uploader(tmp_path) as uploader:
        uploader.pool.store.faults = [BEFORE]
        with pytest.raises(CallRefused):
            await uploader.upload("one", SCRIPT)
        assert uploader.files() == []
        assert await uploader.upload("one", SCRIPT) == "task one taken"
        assert len(uploader.files()) == 1


async def test_the_file_of_a_task_that_may_be_stored_is_kept_and_a_repeat_is_that_task(
    tmp_path: Path,
) -> None:
    async with open_uploader(tmp_path) as uploader:
        uploader.pool.store.faults = [AFTER]
        with pytest.raises(Unsettled):
            await uploader.upload("one", SCRIPT)
        assert len(uploader.files()) == 1
        assert "known with these bytes" in await uploader.upload("one", SCRIPT)
        task = await uploader.pool.store.find_task("ann", client_id="one")
        assert task is not None
        stored = await uploader.pool.store.spec(task.id)
        assert stored is not None
        assert stored.payload is not None
        assert await uploader.pool.blobs.read(stored.payload) == SCRIPT
        assert len(uploader.files()) == 1


@pytest.mark.parametrize("is_same", [True, False])
async def test_of_two_uploads_at_once_one_is_the_task(tmp_path: Path, is_same: bool) -> None:
    said: list[str] = []

    async def upload(uploader: Uploader, data: bytes) -> None:
        try:
            said.append(await uploader.upload("one", data))
        except CallRefused as refused:
            said.append(refused.status.name)

    async with open_uploader(tmp_path) as uploader:
        uploader.pool.store.gate = trio.Event()
        async with trio.open_nursery() as nursery:
            for data in (SCRIPT, SCRIPT if is_same else SCRIPT[:-1] + b"y"):
                nursery.start_soon(upload, uploader, data)
            await wait_all_tasks_blocked(0.1)
            uploader.pool.store.gate.set()
            uploader.pool.store.gate = None
        assert sorted(text.split(";")[0] for text in said) == sorted(
            [
                "task one taken",
                "task one is known with these bytes" if is_same else "ALREADY_EXISTS",
            ]
        )
        assert len(uploader.files()) == 1
