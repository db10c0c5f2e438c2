"""Reading a tar that comes from a node, which may be anybody's.

The standard library's reader keeps every member it has seen, and believes headers that announce
gigabytes of names or of holes. This one holds one header at a time, and knows of the format what
workers write: POSIX ustar with pax headers, and GNU's long names (POSIX.1-2017, pax; tar(5)).
"""

from collections.abc import Iterator
from typing import IO

import attrs

_BLOCK = 512
_PIECE_BYTES = 256 * 1024
_MOST_HEADER_BYTES = 64 * 1024
"""Of a pax header or a long name; PATH_MAX is 4096."""

_PLAIN = {b"0", b"\0"}
_WITHOUT_DATA = {b"1", b"2", b"3", b"4", b"5", b"6"}
_FOLDER = b"5"
_SPARSE = b"GNU.sparse"
"""How the keys of a pax header begin that stand for a file with holes."""
_USED = frozenset({b"path", b"size"})
_MOST_LENGTH_DIGITS = 7
_PAX, _PAX_GLOBAL = b"x", b"g"
_LONG_NAME, _LONG_LINK = b"L", b"K"


class BadTar(Exception):
    """What cannot be read as a tar; one line."""


@attrs.define
class Member:
    """One entry; its bytes are to be read before the next one is asked for."""

    name: str
    is_file: bool
    """A regular file, whole; not a link, a device, or one with holes."""
    is_folder: bool
    is_executable: bool
    _source: IO[bytes]
    _left: int

    def pieces(self) -> Iterator[bytes]:
        """What is left of its bytes. Raises BadTar where the tar ends before them."""
        while self._left:
            piece = self._source.read(min(_PIECE_BYTES, self._left))
            if not piece:
                raise BadTar("it ends within a file")
            self._left -= len(piece)
            yield piece


def members(source: IO[bytes]) -> Iterator[Member]:
    """The entries of a tar, one after another. Raises BadTar where it cannot be read on."""
    extra: dict[str, str] = {}
    while (header := _header(source)) is not None:
        kind, size = header[156:157], _number(header[124:136])
        if kind in {_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK}:
            body = _body(source, size)
            if kind == _PAX:
                extra |= _pax(body)
            elif kind == _LONG_NAME:
                extra["path"] = _text(body)
            continue
        size = _pax_size(extra, size)
        if kind in _WITHOUT_DATA:
            size = 0
        name = extra.get("path") or _name(header)
        is_whole = _SPARSE.decode() not in extra
        member = Member(
            name=name,
            is_file=kind in _PLAIN and is_whole and not name.endswith("/"),
            is_folder=kind == _FOLDER or (kind in _PLAIN and name.endswith("/")),
            is_executable=bool(_number(header[100:108]) & 0o100),
            source=source,
            left=size,
        )
        extra = {}
        yield member
        for _ in member.pieces():
            pass
        _read(source, -size % _BLOCK)


def _header(source: IO[bytes]) -> bytes | None:
    """The next header; None at the end, which is a block of zeros or that of the file."""
    block = source.read(_BLOCK)
    if not block or block == bytes(_BLOCK):
        return None
    if len(block) < _BLOCK:
        raise BadTar("it ends within a header")
    # The sum of all bytes, its own field counted as spaces.
    if _number(block[148:156]) != sum(block) - sum(block[148:156]) + 8 * ord(" "):
        raise BadTar("a header of it is damaged")
    return block


def _number(field: bytes) -> int:
    """Octal text, or base 256 where the first bit is set."""
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    try:
        return int(field.split(b"\0", 1)[0].strip() or b"0", 8)
    except ValueError:
        raise BadTar("a number in it is not one") from None


def _name(header: bytes) -> str:
    name, prefix = header[:100], header[345:500]
    text = _text(name)
    if header[257:263] == b"ustar\0" and prefix[0]:
        return f"{_text(prefix)}/{text}"
    return text


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _body(source: IO[bytes], size: int) -> bytes:
    if size > _MOST_HEADER_BYTES:
        raise BadTar(f"a name in it has {size} bytes")
    body = _read(source, size)
    _read(source, -size % _BLOCK)
    return body


def _read(source: IO[bytes], size: int) -> bytes:
    data = source.read(size) if size else b""
    if len(data) < size:
        raise BadTar("it ends too early")
    return data


def _pax(body: bytes) -> dict[str, str]:
    """What is used here of records of the form ``LENGTH KEY=VALUE NEWLINE``, the length counting
    all of it. A header may have thousands, and many headers may come before one member, so that
    nothing else is kept, and each is looked at once.
    """
    found: dict[str, str] = {}
    at = 0
    while at < len(body):
        space = body.find(b" ", at, at + _MOST_LENGTH_DIGITS + 1)
        digits = body[at : max(at, space)]
        if not digits.isdigit():
            raise BadTar("a header of it is damaged")
        end = at + int(digits)
        key, equals, value = body[space + 1 : max(0, end - 1)].partition(b"=")
        if not equals or end > len(body) or body[end - 1 : end] != b"\n":
            raise BadTar("a header of it is damaged")
        if key.startswith(_SPARSE):
            found[_SPARSE.decode()] = ""
        elif key in _USED:
            found[key.decode()] = value.decode("utf-8", "surrogateescape")
        at = end
    return found


def _pax_size(extra: dict[str, str], size: int) -> int:
    text = extra.get("size")
    if text is None:
        return size
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise BadTar("a number in it is not one")
    return int(text)
