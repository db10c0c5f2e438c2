from collections.abc import AsyncIterator

import pytest

from tests.worker.recording_master import RecordingMaster, open_recording_master


@pytest.fixture
async def master() -> AsyncIterator[RecordingMaster]:
    """A master that keeps what it is told, on a port of its own."""
    async with open_recording_master() as master:
        yield master
