"""What a stream waits on: an event that can close again, and the bytes that have arrived."""

from collections.abc import Callable

import trio


class Gate:
    """An event that can be cleared again, and that can fail for good.

    It has the methods of the event that grpclib's classes wait on.
    """

    __slots__ = ("_failure", "_lot", "_open")

    def __init__(self, *, is_open: bool = False) -> None:
        self._open = is_open
        self._failure: Exception | None = None
        self._lot = trio.lowlevel.ParkingLot()

    def is_set(self) -> bool:
        """Whether `wait` would return at once."""
        return self._open

    def set(self) -> None:
        """Let everyone through until `clear`."""
        self._open = True
        self._lot.unpark_all()

    def clear(self) -> None:
        """Make everyone wait until `set`."""
        self._open = False

    def fail(self, error: Exception) -> None:
        """Raise `error` in all who wait, now and later."""
        self._failure = error
        self._lot.unpark_all()

    async def wait(self) -> None:
        """Return once the gate is open; no other task runs in between where it already is."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._open and self._failure is None:
            await self._lot.park()
        if self._failure is not None:
            raise self._failure


class TruncatedMessage(Exception):
    """The stream ended within a message."""


class Buffer:
    """The bytes of one stream that have arrived and are not read yet.

    The peer gets room to send more only as bytes are read, so at most one stream window is ever
    held. Bytes are kept in one piece: a peer that sends them one by one costs no more.
    """

    __slots__ = ("_ack", "_arrived", "_data", "_ended")

    def __init__(self, ack: Callable[[int], None]) -> None:
        self._ack = ack
        self._data = bytearray()
        self._ended = False
        self._arrived = Gate()

    def add(self, data: bytes, ack_size: int) -> None:
        """Take in a DATA frame of `ack_size` flow-controlled bytes; padding is given back now."""
        self._data += data
        if ack_size > len(data):
            self._ack(ack_size - len(data))
        self._arrived.set()

    def eof(self) -> None:
        """Nothing more will come."""
        self._ended = True
        self._arrived.set()

    def unacked_size(self) -> int:
        """How many bytes the peer has not been given back."""
        return len(self._data)

    async def read(self, size: int) -> bytes:
        """Exactly `size` bytes, or none where the stream has ended.

        Raises:
            TruncatedMessage: it ended after the first byte and before the last.
        """
        if len(self._data) >= size:
            return self._take(size)
        pieces = bytearray()
        while len(pieces) < size:
            piece = await self.read_some(size - len(pieces))
            if not piece:
                if pieces:
                    raise TruncatedMessage(f"the stream ended {size - len(pieces)} bytes too soon")
                return b""
            pieces += piece
        return bytes(pieces)

    async def read_some(self, max_bytes: int) -> bytes:
        """What is there, up to `max_bytes`, waiting for the first byte; empty at the end."""
        while not self._data:
            if self._ended:
                return b""
            self._arrived.clear()
            await self._arrived.wait()
        return self._take(min(max_bytes, len(self._data)))

    def _take(self, size: int) -> bytes:
        if size == 0:
            return b""
        taken = bytes(memoryview(self._data)[:size])
        del self._data[:size]
        self._ack(size)
        return taken


class TokenBucket:
    """So many events at once, and so many a second after that."""

    __slots__ = ("_at", "_burst", "_left", "_per_s")

    def __init__(self, burst: int, per_s: float) -> None:
        self._burst = float(burst)
        self._left = float(burst)
        self._per_s = per_s
        self._at = trio.current_time()

    def take(self) -> bool:
        """Count one event; False where it is one too many."""
        now = trio.current_time()
        self._left = min(self._burst, self._left + (now - self._at) * self._per_s)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
