"""What a launcher and a run's init say to the pool: JSON, made without the module of that name.

Importing it would bring regular expressions along, whose pages every fork would copy.
"""

from __future__ import annotations

import _json

_MOST_CHARACTERS = 500


def done(number: int, op: str) -> bytes:
    """A request was carried out."""
    return b'{"id": %d, "answer": "%s"}' % (number, op.encode())


def refused(number: int, op: str, kind: str, text: str) -> bytes:
    """It could not be; `kind` says whose fault that is."""
    line = _json.encode_basestring_ascii(" ".join(text.split())[:_MOST_CHARACTERS])
    words = (number, op.encode(), kind.encode(), line.encode())
    return b'{"id": %d, "answer": "%s", "kind": "%s", "error": %s}' % words


def ended(number: int, exit_code: int | None, cpu_s: float, memory_peak_bytes: int) -> bytes:
    """Nothing is left of a run; `exit_code` is None where it did not end by itself."""
    told = b"null" if exit_code is None else b"%d" % exit_code
    words = (number, told, cpu_s, memory_peak_bytes)
    return (
        b'{"id": %d, "answer": "ended", "exit_code": %s, "cpu_s": %.6f, "memory_peak_bytes": %d}'
        % words
    )
