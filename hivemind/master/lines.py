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

    def finish(self) -> str:
        """What is left of characters that never became whole."""
        return "".join(decoder.decode(b"", final=True) for decoder in self._decoders.values())


class LineMerger:
    """The lines of both streams, in the order in which they were completed."""

    def __init__(self) -> None:
        self._texts = Utf8Streams()
        self._begun = dict.fromkeys(OutputStream, "")
        self._lines: list[str] = []

    def add(self, stream: OutputStream, data: bytes) -> None:
        """More of a stream."""
        *whole, self._begun[stream] = (self._begun[stream] + self._texts.add(stream, data)).split(
            "\n"
        )
        self._lines += whole

    def finish(self) -> tuple[str, ...]:
        """All lines; the last one of each stream may have no end yet."""
        return (*self._lines, *(text for text in self._begun.values() if text))
