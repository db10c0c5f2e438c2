from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hivemind.store.api import Store
from hivemind.store.failing import FailingStore, on_commits
from hivemind.store.memory import MemoryStore
from hivemind.store.sqlite import open_sqlite_store

NOW = 1_000_000.0


@pytest.fixture(params=["sqlite", "memory", "failing"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    """Every store that keeps the contract; the failing one has nothing planned."""
    if request.param == "memory":
        yield MemoryStore(clock=lambda: NOW)
        return
    async with open_sqlite_store(tmp_path / "store.db", clock=lambda: NOW) as sqlite:
        yield sqlite if request.param == "sqlite" else FailingStore(sqlite, on_commits({}))
