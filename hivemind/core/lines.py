"""Output of two streams as text: bytes that are no UTF-8 show as U+FFFD, as terminals do it."""

import codecs

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
    """The lines of both streams, in the order in which they were completed."""

    def __init__(self) -> None:
        self._texts = Utf8Streams()
        # In pieces: a line that comes byte by byte is put together once.
        self._begun: dict[OutputStream, list[str]] = {stream: [] for stream in OutputStream}
        self._lines: list[str] = []

    def add(self, stream: OutputStream, data: bytes) -> None:
        """More of a stream."""
        self._take(stream, self._texts.add(stream, data))

    def finish(self) -> tuple[str, ...]:
        """All lines; the last one of each stream may have no end yet."""
        for stream in OutputStream:
            self._take(stream, self._texts.end(stream))
        unfinished = ("".join(begun) for begun in self._begun.values())
        return (*self._lines, *(text for text in unfinished if text))

    def _take(self, stream: OutputStream, text: str) -> None:
        first, *more = text.split("\n")
        begun = self._begun[stream]
        begun.append(first)
        if more:
            self._lines.append("".join(begun))
            self._lines += more[:-1]
            self._begun[stream] = [more[-1]]
