"""Fetching a task's result: a file that is there whole, or not at all."""

import os
import secrets
from contextlib import aclosing
from pathlib import Path
from typing import IO, Self

import trio

from hivemind.client.connection import Connection
from hivemind.client.errors import BadResult
from hivemind.rpc.contract.tasks import TasksClient
from hivemind.rpc.errors import RpcError


async def fetch_result(connection: Connection, task_id: str, path: Path) -> None:
    """Put the result's zip at ``path``, whole or not at all: a half of it is never seen there.

    Raises:
        ClientError: there is no result, the master could not be reached; BadResult where ``path``
            cannot be written.
    """
    trial = connection.trial()
    while True:
        try:
            client = TasksClient(await connection.channel())
            with _Whole(path) as whole:
                async with aclosing(client.download(task_id)) as pieces:
                    async for data in pieces:
                        await trio.to_thread.run_sync(whole.write, data)
                await trio.to_thread.run_sync(whole.settle)
        except RpcError as error:
            await trial.after(error)
        else:
            return


class _Whole:
    """A file that appears under its name only when it is complete and on disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self._file = self._part.open("xb")
        except OSError as error:
            raise _unwritable(self._path, error) from error
        return self

    def write(self, data: bytes) -> None:
        assert self._file is not None  # noqa: S101
        try:
            self._file.write(data)
        except OSError as error:
            raise _unwritable(self._path, error) from error

    def settle(self) -> None:
        """Give the file its name, once it is on disk."""
        assert self._file is not None  # noqa: S101
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._part.replace(self._path)
            _sync_folder(self._path.parent)
        except OSError as error:
            raise _unwritable(self._path, error) from error

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
        self._part.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unwritable(path: Path, error: OSError) -> BadResult:
    return BadResult(f"{path}: cannot be written: {error.strerror or error}")
