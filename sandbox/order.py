"""The run that a command line asks for: its options made into a spec."""

from __future__ import annotations

import argparse
import os
import posixpath
import stat
from pathlib import Path

import attrs

from sandbox.errors import BadSpec
from sandbox.pool import PoolConfig
from sandbox.spec import Archive, Limits, Spec, StagedFile

_OWN_STDIN = 0


@attrs.frozen(kw_only=True)
class RunOrder:
    """One run as the command line asks for it.

    Attributes:
        collect: the file that gets what the task leaves, or None.
    """

    spec: Spec
    config: PoolConfig
    collect: Path | None


def read_order(parsed: argparse.Namespace, folder: Path, *, stdin_is_terminal: bool) -> RunOrder:
    """The run that the parsed options describe.

    Args:
        parsed: what the parser made of a `run` command.
        folder: the present folder, that the command's own file is looked for in.
        stdin_is_terminal: whether our own stdin is, and so is not read unless that is asked for.

    Raises:
        BadSpec: the options contradict each other or ask for what there is not.
    """
    command: list[str] = parsed.command
    if not command:
        raise BadSpec("there is no command to run")
    if parsed.output and parsed.collect is None:
        raise BadSpec("--output says what to collect, and needs --collect")
    if parsed.collect is not None:
        _check_collect(parsed.collect)
    files = tuple(parsed.file)
    if parsed.archive is None:
        files += _own_file(command, folder, {file.name for file in files})
    limits = Limits(
        memory_bytes=parsed.memory,
        wall_s=parsed.time,
        cpu_s=parsed.cpu_time,
        cpus=parsed.cpus,
        pids=parsed.pids,
        scratch_bytes=parsed.scratch,
        file_bytes=max(4096, parsed.scratch),
        output_bytes=parsed.output_limit,
    )
    spec = Spec(
        argv=tuple(command),
        env=dict(parsed.env),
        limits=limits,
        files=files,
        archive=None if parsed.archive is None else Archive(source=parsed.archive),
        stdin=_stdin(parsed.stdin, stdin_is_terminal=stdin_is_terminal),
        binds=tuple(parsed.ro),
        network=parsed.network,
        seccomp=parsed.seccomp,
        root=None if parsed.root is None else parsed.root.absolute(),
        outputs=tuple(parsed.output),
    )
    config = PoolConfig(limits=parsed.limits, slots=1)
    return RunOrder(spec=spec, config=config, collect=parsed.collect)


def _check_collect(path: Path) -> None:
    """Refuse, before anything runs, a file that could not be put in place at the end."""
    if path.exists() and not path.is_file():
        raise BadSpec(f"cannot collect into {str(path)!r}: it is not a regular file")
    if not path.name or not os.access(path.parent, os.W_OK | os.X_OK):
        raise BadSpec(f"cannot collect into {str(path)!r}: its folder cannot be written")


def _own_file(command: list[str], folder: Path, taken: set[str]) -> tuple[StagedFile, ...]:
    """The file of the command itself: its first word that names one in or below the folder."""
    for number, word in enumerate(command):
        if word.startswith(("-", "/")) or ".." in word.split("/") or "\0" in word:
            continue
        if number == 0 and "/" not in word:
            continue  # looked up on PATH, which does not have the present folder
        source = folder / word
        try:
            mode = source.stat().st_mode
        except OSError:
            continue  # most words are no files at all
        if stat.S_ISREG(mode):
            name = posixpath.normpath(word)
            if name in taken:
                return ()
            return (StagedFile(source=source, name=name, mode=stat.S_IMODE(mode) & 0o777),)
    return ()


def _stdin(asked: str | None, *, stdin_is_terminal: bool) -> Path | int | None:
    if asked == "/dev/null" or (asked is None and stdin_is_terminal):
        return None
    return _OWN_STDIN if asked in (None, "-") else Path(str(asked))
