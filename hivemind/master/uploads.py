"""Bytes that clients send: small ones stay with the task's row, large ones go to a file as they
arrive.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import attrs
import trio

from hivemind.core.messages import INLINE_BYTES, UploadChunk, UploadPart
from hivemind.core.records import Blob
from hivemind.rpc.contract.faults import Unsettled, exhausted, invalid, unavailable
from hivemind.rpc.spool import Spool, SpoolFile
from hivemind.store.blobs import BlobFolder

_HEAD_BYTES = 64 * 1024
"""How much of a payload is kept at hand, to tell what it is."""

_SILENCE_S = 60.0
"""How long a client may send nothing while its files take up room."""

_CLEANUP_S = 10.0


@attrs.frozen(kw_only=True)
class Upload:
    """What came, on disk or small enough for a row."""

    blob: Blob | None
    head: bytes
    """Its first bytes."""


@attrs.frozen(kw_only=True)
class Uploaded:
    """A submission's bytes. Whoever does not store them must let go of them."""

    payload: Upload
    stdin: Upload


class Uploads:
    """Takes in submissions' bytes within the pool's limits."""

    def __init__(self, blobs: BlobFolder, spool: Spool, most_bytes: Callable[[], int]) -> None:
        self._blobs = blobs
        self._spool = spool
        self._most_bytes = most_bytes

    def check_announced(self, **size_bytes: int) -> None:
        """Raise CallRefused for a part, named by its keyword, of which there would be too much."""
        most = self._most_bytes()
        for part, size in size_bytes.items():
            if size > most:
                raise exhausted(
                    f"the {part} has {size} bytes, and the pool takes {most} at most; leave out"
                    " what the task does not need"
                )

    @asynccontextmanager
    async def receive(
        self, chunks: AsyncIterator[UploadChunk], *, with_stdin: bool
    ) -> AsyncIterator[Uploaded]:
        """Everything that a submission sends, whole.

        An error inside the block removes the files again, since nothing names them yet; all but
        Unsettled, with which that cannot be known.

        Raises:
            CallRefused: too much, too slow, or standard input that was not announced.
        """
        source = _Parts(chunks)
        received: list[Upload] = []
        try:
            async with aclosing(source.part(UploadPart.PAYLOAD)) as pieces:
                payload = await self._receive(pieces)
            received.append(payload)
            stdin = Upload(blob=None, head=b"")
            if with_stdin:
                async with aclosing(source.part(UploadPart.STDIN)) as pieces:
                    stdin = await self._receive(pieces)
                received.append(stdin)
                if stdin.blob is None:
                    stdin = Upload(blob=Blob(size=0, inline=b""), head=b"")
            if not await source.is_exhausted():
                raise invalid("standard input was sent and not announced by the header")
            yield Uploaded(payload=payload, stdin=stdin)
        except Unsettled:
            # A row may name the files. If none does, they are removed at the next start.
            raise
        except BaseException:
            with trio.move_on_after(_CLEANUP_S, shield=True):
                for upload in received:
                    await self.discard(upload)
            raise

    @asynccontextmanager
    async def take(self, file: SpoolFile) -> AsyncIterator[Uploaded]:
        """A payload that came whole, as ``receive`` gives it, with the same care for its file.

        Raises CallRefused.
        """
        payload = Upload(blob=None, head=b"")
        if 0 < file.size_bytes <= INLINE_BYTES:
            data = await file.read()
            payload = Upload(blob=Blob(size=len(data), inline=data), head=data[:_HEAD_BYTES])
        elif file.size_bytes:
            await file.finish()
            head = await trio.to_thread.run_sync(_read_head, file.path)
            payload = await self._adopt(file, head)
        try:
            yield Uploaded(payload=payload, stdin=Upload(blob=None, head=b""))
        except Unsettled:
            raise
        except BaseException:
            with trio.move_on_after(_CLEANUP_S, shield=True):
                await self.discard(payload)
            raise

    async def discard(self, upload: Upload) -> None:
        """Remove the upload's file, if it has one."""
        if upload.blob is not None:
            await self._blobs.delete(upload.blob)

    async def _receive(self, pieces: AsyncGenerator[bytes, None]) -> Upload:
        """One part: in memory while it is small, in a file from then on."""
        begun = await _first_bytes(pieces)
        if not begun:
            return Upload(blob=None, head=b"")
        head = begun[:_HEAD_BYTES]
        if len(begun) <= INLINE_BYTES:
            return Upload(blob=Blob(size=len(begun), inline=begun), head=head)
        async with self._spool.open_file(max_bytes=self._most_bytes()) as file:
            await file.write(begun)
            # The rest may take long, or never come, and a message may have four megabytes.
            del begun
            await file.fill(pieces)
            return await self._adopt(file, head)

    async def _adopt(self, file: SpoolFile, head: bytes) -> Upload:
        await file.finish()
        return Upload(blob=await self._blobs.adopt(file.path), head=head)


def _read_head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD_BYTES)


async def _first_bytes(pieces: AsyncIterator[bytes]) -> bytes:
    """What comes until it is too much to be kept in a row, or until the end."""
    held = bytearray()
    async for piece in pieces:
        held += piece
        if len(held) > INLINE_BYTES:
            break
    return bytes(held)


class _Parts:
    """A row of chunks, part by part; each part comes at most once, in order."""

    def __init__(self, chunks: AsyncIterator[UploadChunk]) -> None:
        self._chunks = chunks
        self._next: UploadChunk | None = None

    async def part(self, part: UploadPart) -> AsyncGenerator[bytes, None]:
        """The bytes of the part that comes next, if it is this one."""
        while (chunk := await self._peek()) is not None and chunk.part is part:
            self._next = None
            yield chunk.data

    async def is_exhausted(self) -> bool:
        """Whether nothing comes any more."""
        return await self._peek() is None

    async def _peek(self) -> UploadChunk | None:
        if self._next is None:
            with trio.move_on_after(_SILENCE_S) as waiting:
                self._next = await anext(self._chunks, None)
            if waiting.cancelled_caught:
                raise unavailable(f"nothing came for {_SILENCE_S:g} s; submit again")
        return self._next
