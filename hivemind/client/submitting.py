"""One submit, sent until the master is known to have it."""

import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING

import attrs

from hivemind.client.connection import Connection
from hivemind.client.sources import Source, read_in_thread
from hivemind.core.messages import UploadChunk, UploadPart
from hivemind.rpc.contract.tasks import TasksClient
from hivemind.rpc.errors import RpcError

if TYPE_CHECKING:
    from hivemind.client.programs import Program

OnSent = Callable[[int, int], None]
"""Told how many bytes of how many were sent; equal once everything was."""


async def send_submission(
    connection: Connection, program: "Program", stdin: Source | None, on_sent: OnSent | None
) -> str:
    """The id of the task that was made, exactly one however often the submit was repeated.

    Cancelled after everything was sent, it may have made the task all the same.

    Raises:
        ClientError: the master refused, or could not be reached; BadProgram where the bytes could
            not be read.
    """
    submission = attrs.evolve(
        program.submission,
        client_key=program.submission.client_key or secrets.token_hex(16),
        has_stdin=stdin is not None,
        payload_bytes=0 if program.payload is None else program.payload.size,
        stdin_bytes=0 if stdin is None else stdin.size,
    )
    trial = connection.trial()
    while True:
        try:
            channel = await connection.channel()
            async with aclosing(_chunks(program.payload, stdin, on_sent)) as chunks:
                submitted = await TasksClient(channel).submit(submission, chunks)
        except RpcError as error:
            await trial.after(error)
        else:
            return submitted.task_id


async def _chunks(
    payload: Source | None, stdin: Source | None, on_sent: OnSent | None
) -> AsyncGenerator[UploadChunk, None]:
    parts = [(UploadPart.PAYLOAD, payload), (UploadPart.STDIN, stdin)]
    total = sum(source.size for _, source in parts if source is not None)
    sent = 0
    for part, source in parts:
        if source is None:
            continue
        async with aclosing(read_in_thread(source)) as pieces:
            async for data in pieces:
                yield UploadChunk(part, data)
                sent += len(data)
                if on_sent is not None and sent < total:
                    on_sent(sent, total)
    if on_sent is not None:
        on_sent(total, total)
