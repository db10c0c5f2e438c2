"""One program and how it is started; what comes out is for the real interpreter to say."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping

import attrs

_ADDRESS = re.compile(rb"0x[0-9a-f]+")


@attrs.frozen(kw_only=True, eq=False)
class Case:
    """One row of the table.

    Attributes:
        argv: what follows `python3`.
        files: what lies in the working folder.
        env: variables beside PATH, HOME and LANG.
        stdin: what is fed through a pipe; None for /dev/null.
        exit_code: what the real interpreter must end with: a row that fails for a slip of its own
            would compare nothing. None where that is not the same in all versions.
        lone: whether the row needs a sandbox, since it looks at the whole process.
        heavy: whether it takes long enough to be left to `just conformance`.
    """

    name: str
    argv: tuple[str, ...]
    files: Mapping[str, bytes] = attrs.field(factory=dict)
    env: Mapping[str, str] = attrs.field(factory=dict)
    stdin: bytes | None = None
    exit_code: int | None = 0
    lone: bool = False
    heavy: bool = False


@attrs.frozen
class Outcome:
    """What can be seen of a run from outside."""

    reason: str
    exit_code: int
    signal: int | None
    stdout: bytes
    stderr: bytes


def settled(output: bytes) -> bytes:
    """Output without what differs between two runs of the real interpreter: addresses."""
    return _ADDRESS.sub(b"0x...", output)


def code(name: str, source: str, *args: str, **more: object) -> Case:
    """A row that is started by -c."""
    return Case(name=name, argv=("-c", textwrap.dedent(source), *args), **more)  # type: ignore[arg-type]


def script(
    name: str,
    source: str | bytes,
    *args: str,
    at: str = "main.py",
    files: Mapping[str, str | bytes] | None = None,
    argv: tuple[str, ...] | None = None,
    **more: object,
) -> Case:
    """A row that is started as a script, which lies `at` a place in the working folder.

    `argv` is for those that are not started as `python3 AT ARGS`.
    """
    texts = {at: source, **(files or {})}
    return Case(
        name=name,
        argv=(at, *args) if argv is None else argv,
        files={path: _bytes(text) for path, text in texts.items()},
        **more,  # type: ignore[arg-type]
    )


def _bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else textwrap.dedent(text).lstrip("\n").encode()
