"""Output of two streams as text: bytes that are no UTF-8 show as U+FFFD, as terminals do it."""

import codecs
from collections import deque

from hivemind.core.records import OutputStream


class Utf8Streams:
    """Decodes the two streams side by side: a character may be cut at the end of a chunk."""

    def __init__(self) -> None:
        make = codecs.getincrementaldecoder("utf-8")
        self._decoders = {stream: make(errors="replace") for stream in OutputStream}

    def add(self, stream: OutputStream, data: bytes) -> str:
        """The text that is whole now."""
        return self._decoders[stream].decode(data)

    def end(self, stream: OutputStream) -> str:
        """What is left of a stream's last character, if that never became whole."""
        return self._decoders[stream].decode(b"", final=True)

    def finish(self) -> str:
        """The same of both streams."""
        return "".join(map(self.end, OutputStream))


class LineMerger:
    """The lines of both streams, or the last of them, in the order in which they were completed."""

    def __init__(self, most_lines: int | None = None) -> None:
        self._texts = Utf8Streams()
        # In pieces, since a long line may come byte by byte.
        self._begun: dict[OutputStream, list[str]] = {stream: [] for stream in OutputStream}
        self._lines: deque[str] = deque(maxlen=most_lines)
        self.count = 0
        """All lines so far, those that are kept no more included."""

    def add(self, stream: OutputStream, data: bytes) -> None:
        """More of a stream."""
        begun = self._begun[stream]
        first, *others = self._texts.add(stream, data).split("\n")
        begun.append(first)
        for text in others:
            self._complete(begun)
            begun.append(text)

    def finish(self) -> tuple[str, ...]:
        """The lines that are kept; the last one of each stream may have no end yet."""
        for stream, begun in self._begun.items():
            begun.append(self._texts.end(stream))
            if any(begun):
                self._complete(begun)
        return tuple(self._lines)

    def _complete(self, begun: list[str]) -> None:
        self._lines.append("".join(begun))
        self.count += 1
        begun.clear()
