"""What tasks printed, as text: the end of it for a poll, all of it for whoever asks for that."""

from collections.abc import AsyncGenerator, Sequence

import attrs
import trio

from hivemind.core.lines import LineMerger, Utf8Streams
from hivemind.core.records import OutputChunk
from hivemind.master.output import OutputLog

TAIL_BYTES = 256 * 1024
"""How much of its output's end a poll shows. Polls are repeated, and clients take messages of four
megabytes unless they say otherwise: a byte may become a character of three, with two beside it."""
TAIL_LINES = 4000
"""The most lines of that: each costs some microseconds to be sent, in which nothing else runs."""


@attrs.frozen(kw_only=True)
class Tail:
    """The end of some output."""

    lines: tuple[str, ...]
    """Each of one stream, without its line end, in the order in which they were completed."""
    omission: str = ""
    """What is not in it, in words; empty where it is all."""


@attrs.frozen
class Part:
    """Some output of a transcript, and what stands above it."""

    log: OutputLog
    size: int
    """How many bytes of it count; what comes later does not."""
    heading: str = ""


async def tail_of(log: OutputLog) -> Tail:
    """The last lines that there are now."""
    size = log.size
    skipped = max(0, size - TAIL_BYTES)
    merger, place, seen = LineMerger(TAIL_LINES), log.follow(skipped), skipped
    while seen < size and (chunks := await place.next_batch()):
        await trio.to_thread.run_sync(_add, merger, chunks)
        seen = chunks[-1].offset + len(chunks[-1].data)
    lines = merger.finish()
    omitted = merger.count - len(lines)
    omission = ""
    if skipped or omitted:
        what = [f"the first {skipped} bytes"] if skipped else []
        what += [f"{omitted} {'further ' if skipped else 'earlier '}lines"] if omitted else []
        omission = f"{' and '.join(what)} of its output are left out, GetTaskLogs has everything"
    return Tail(lines=lines, omission=omission)


# Both in a thread: who writes byte by byte makes tens of thousands of chunks.


def _add(merger: LineMerger, chunks: Sequence[OutputChunk]) -> None:
    for chunk in chunks:
        merger.add(chunk.stream, chunk.data)


def _decode(texts: Utf8Streams, chunks: Sequence[OutputChunk], most_bytes: int) -> str:
    """The text of chunks, of their first so many bytes."""
    pieces = []
    for chunk in chunks:
        data = chunk.data[:most_bytes]
        most_bytes -= len(data)
        pieces.append(texts.add(chunk.stream, data))
    return "".join(pieces)


async def transcript(parts: Sequence[Part]) -> AsyncGenerator[bytes, None]:
    """All of it as UTF-8, in the order in which it came; the same bytes every time."""
    is_line_open = False
    for part in parts:
        if part.heading:
            yield ("\n" * is_line_open + part.heading).encode()
            is_line_open = False
        texts, place, seen = Utf8Streams(), part.log.follow(0), 0
        while seen < part.size and (chunks := await place.next_batch()):
            text = await trio.to_thread.run_sync(_decode, texts, chunks, part.size - seen)
            seen = chunks[-1].offset + len(chunks[-1].data)
            is_line_open = not text.endswith("\n") if text else is_line_open
            yield text.encode()
        if cut := texts.finish():
            is_line_open = True
            yield cut.encode()
