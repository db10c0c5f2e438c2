"""The numbers of one HTTP/2 endpoint, server or channel: sizes, windows and deadlines."""

from collections.abc import Mapping

import attrs

KIB = 1024
MIB = 1024 * KIB
CHUNK_BYTES = MIB
"""What an upload or download carries in one message, and the most that is written at once."""


@attrs.frozen(kw_only=True)
class TransportConfig:
    """What a peer may cost us, and how long we wait for it.

    `*_bytes` are bytes, `*_s` seconds. Sizes that travel in SETTINGS (frame, stream window, header
    list, number of streams) are in the first SETTINGS frame, so that they hold from the first byte.
    """

    max_message_bytes: int = 4 * MIB
    """The largest message taken in; a larger one is refused when its length is announced."""
    method_message_bytes: Mapping[str, int] = attrs.field(factory=dict)
    """Other limits for single methods, by path (`/package.Service/Method`)."""
    open_message_bytes: int = 64 * KIB
    """The limit for methods that need no token, unless `method_message_bytes` names them."""
    message_budget_bytes: int = 256 * MIB
    """What all messages over 4 KiB that a server is taking in may hold together."""
    reply_budget_bytes: int = 128 * MIB
    """What all replies that were put together and are not sent yet may hold together."""
    reply_s: float = 30.0
    """How long a caller may leave a reply unread, with the time that `min_bytes_per_s` gives it."""

    max_message_fields: int = 10_000
    """Fields of one request, nested ones included: decoding holds up all other tasks for some 35
    microseconds for each nested message, as measured with betterproto2 0.10."""
    max_reply_fields: int = 100_000
    """The same for what a client takes in."""

    max_connections: int = 512
    max_concurrent_streams: int = 1000
    max_open_calls: int = 100
    """Calls without a token on one connection at once."""
    max_calls: int = 8192
    """Calls in flight of all who are known, which they share; each costs some 14 KiB."""
    max_all_open_calls: int = 2048
    """Calls without a token on all connections; for one more, whoever has most is hung up on."""
    max_arrivals: int = 4096
    """Calls whose caller was not looked at yet, on all connections, which they share."""
    max_frame_bytes: int = 64 * KIB
    max_header_bytes: int = 16 * KIB
    stream_window_bytes: int = MIB
    connection_window_bytes: int = 16 * MIB
    send_buffer_bytes: int = 256 * KIB
    """Above this much unsent data, senders of the connection wait."""

    keepalive_s: float | None = 30.0
    """A ping goes out after this long without a byte from the peer; None sends none (a grpcio
    server by default hangs up on clients that ping more often than every five minutes)."""
    keepalive_timeout_s: float = 20.0
    connect_s: float = 10.0
    handshake_s: float = 10.0
    """From the accepted connection to the end of TLS and the peer's first SETTINGS."""
    first_message_s: float = 30.0
    """How long a caller without a token may take to send its request."""
    min_bytes_per_s: int = 32 * KIB
    """Slower than this (after `first_message_s`) an announced message is given up."""
    recheck_s: float = 2.0
    """How often the tokens of calls in flight are looked at again."""
    drain_grace_s: float = 10.0

    flood_burst: int = 1000
    """Resets, pings, settings and other frames that carry nothing: so many at once, ..."""
    flood_per_s: float = 100.0
    """... and so many a second after that; a peer that sends more is cut off."""

    def message_limit(self, method: str, *, is_open: bool) -> int:
        """The largest message `method` takes, in bytes."""
        limit = self.method_message_bytes.get(method)
        if limit is not None:
            return limit
        return (
            min(self.open_message_bytes, self.max_message_bytes)
            if is_open
            else self.max_message_bytes
        )
