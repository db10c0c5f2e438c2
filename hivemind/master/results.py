"""A task's result: a zip that is made as it is read, and never whole anywhere.

It holds ``output/`` (what the task left in its output folder; where a node of the public API stored
a result, its bytes as they came in ``output/result.bin``), ``stdout.txt``, ``stderr.txt`` and
``result.json``. Members are stored, not compressed: what is worth compressing the task has
compressed, and a download costs no more than reading a file.
"""

import io
import json
import zipfile
from collections.abc import AsyncGenerator, Generator, Iterable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

import attrs
import trio

from hivemind.core.records import Attempt, OutputStream, Task
from hivemind.master.output import OutputLog
from hivemind.master.tars import BadTar, members
from hivemind.rpc.reply import holding_reply

_PIECE_BYTES = 256 * 1024
_MOST_FILES = 50_000
"""The zip's directory is held until its end, at about a kilobyte for each file; a worker sends no
more than so many."""
_MOST_FOLDERS = 50_000
_MOST_NAMES_BYTES = 32 * 1024 * 1024
"""Of all names together, which the zip's directory holds once more."""
_MOST_NAME = 4096
_MOST_STEPS = 200
"""Of folders within each other: a client takes no more, and workers send no more than 128."""
_FILE_BYTES, _FOLDER_BYTES = 1024, 320
"""What a file takes in the zip's directory and among the names, and a folder among these, without
their names."""
_COUNTED_BYTES = 64 * 1024
"""So much may be held before it is counted."""
RAW_RESULT = "output/result.bin"
"""What a node of the public API stored as the result; it may be anything."""


@attrs.frozen(kw_only=True)
class ResultParts:
    """Where a result comes from."""

    task: Task
    attempt: Attempt | None
    log: OutputLog | None
    outputs: Path | bytes | None
    """The tar of the output folder, or a raw result: a file, or its bytes where they are few."""


async def result_pieces(parts: ResultParts) -> AsyncGenerator[bytes, None]:
    """The zip, piece by piece. Reading it again gives the same bytes.

    Raises:
        CallRefused: within a call: its directory takes too much beside all other replies.
    """
    names = _Names()
    pieces = _zip_pieces(parts, names)
    counted_bytes = 0
    try:
        async with AsyncExitStack() as held:
            while True:
                piece = await trio.to_thread.run_sync(next, pieces, None)
                if piece is None:
                    return
                more_bytes = names.held_bytes - counted_bytes
                if more_bytes >= _COUNTED_BYTES:
                    await held.enter_async_context(holding_reply(more_bytes))
                    counted_bytes += more_bytes
                yield piece
    finally:
        pieces.close()


class _Outlet(io.RawIOBase):
    """A file that is only written to, and emptied in between."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self.held = 0

    def writable(self) -> bool:
        return True

    def write(self, data: bytes | bytearray | memoryview) -> int:  # type: ignore[override]
        piece = bytes(data)
        self._pieces.append(piece)
        self.held += len(piece)
        return len(piece)

    def take(self) -> bytes:
        taken = b"".join(self._pieces)
        self._pieces.clear()
        self.held = 0
        return taken


def _zip_pieces(parts: ResultParts, names: "_Names") -> Generator[bytes, None, None]:
    outlet = _Outlet()
    ended_at = datetime.fromtimestamp(parts.task.finished_at or 0.0, tz=UTC)
    stamp = max(ended_at, datetime(1980, 1, 1, tzinfo=UTC)).timetuple()[:6]
    with zipfile.ZipFile(outlet, "w", allowZip64=True) as archive:
        if parts.attempt is not None and parts.attempt.raw_result:
            damage = yield from _add_raw(archive, outlet, parts.outputs, stamp)
        else:
            damage = yield from _add_outputs(archive, outlet, parts.outputs, stamp, names)
        if parts.log is not None:
            for name, stream in (
                ("stdout.txt", OutputStream.STDOUT),
                ("stderr.txt", OutputStream.STDERR),
            ):
                yield from _add(archive, outlet, name, stamp, parts.log.sync_chunks(stream))
        document = json.dumps(_document(parts, damage), indent=2).encode() + b"\n"
        yield from _add(archive, outlet, "result.json", stamp, [document])
    if outlet.held:
        yield outlet.take()


def _add(
    archive: zipfile.ZipFile,
    outlet: _Outlet,
    name: str,
    stamp: tuple[int, ...],
    data: Iterable[bytes],
    *,
    executable: bool = False,
) -> Generator[bytes, None, None]:
    info = zipfile.ZipInfo(name, date_time=stamp)  # type: ignore[arg-type]
    info.external_attr = (0o100755 if executable else 0o100644) << 16
    info.compress_type = zipfile.ZIP_STORED
    with archive.open(info, "w", force_zip64=True) as member:
        for piece in data:
            member.write(piece)
            if outlet.held >= _PIECE_BYTES:
                yield outlet.take()


def _add_outputs(
    archive: zipfile.ZipFile,
    outlet: _Outlet,
    outputs: Path | bytes | None,
    stamp: tuple[int, ...],
    names: "_Names",
) -> Generator[bytes, None, str]:
    """The tar's regular files. Returns what was wrong with it, or an empty text.

    The tar comes from a node, which may be anybody's: names that lead elsewhere, links, devices and
    sparse members are left out.
    """
    if outputs is None:
        return ""
    left_out = 0
    try:
        with io.BytesIO(outputs) if isinstance(outputs, bytes) else outputs.open("rb") as source:
            for member in members(source):
                name = _safe_name(member.name)
                if not member.is_file or name is None or not names.take(name):
                    left_out += not member.is_folder
                    continue
                yield from _add(
                    archive,
                    outlet,
                    f"output/{name}",
                    stamp,
                    member.pieces(),
                    executable=member.is_executable,
                )
                if names.is_full:
                    return (
                        f"there are more than {_MOST_FILES} outputs, or too many folders or too "
                        "long names, and the rest is left out"
                    )
    except BadTar as error:
        return f"the outputs cannot be read to their end: {error}"
    except OSError as error:
        return f"the outputs cannot be read to their end: {error.strerror}"
    return f"{left_out} outputs were not plain files and were left out" if left_out else ""


def _add_raw(
    archive: zipfile.ZipFile,
    outlet: _Outlet,
    result: Path | bytes | None,
    stamp: tuple[int, ...],
) -> Generator[bytes, None, str]:
    """The bytes that a node stored. Returns what was wrong with them, or an empty text."""
    try:
        with (
            io.BytesIO(result or b"") if not isinstance(result, Path) else result.open("rb") as raw
        ):
            pieces = iter(lambda: raw.read(_PIECE_BYTES), b"")
            yield from _add(archive, outlet, RAW_RESULT, stamp, pieces)
    except OSError as error:
        return f"the result cannot be read to its end: {error.strerror}"
    return ""


class _Names:
    """The names that a zip has, none of which may stand in another's way when it is unpacked.

    Each folder is held once, by its own name: a tar may have thousands of files, each hundreds of
    folders deep.
    """

    def __init__(self) -> None:
        self._top: dict[str, Any] = {}
        self._files = self._folders = self._bytes = 0

    @property
    def is_full(self) -> bool:
        """Whether the directory of the zip, or this, would become too large to be held."""
        return (
            self._files >= _MOST_FILES
            or self._folders >= _MOST_FOLDERS
            or self._bytes >= _MOST_NAMES_BYTES
        )

    @property
    def held_bytes(self) -> int:
        """What all of it takes, the zip's directory included."""
        return 2 * self._bytes + self._files * _FILE_BYTES + self._folders * _FOLDER_BYTES

    def take(self, name: str) -> bool:
        """Whether the name is free, and a file of it can be made; then it is taken."""
        *folders, last = name.split("/")
        place = self._top
        new = 0
        for step in folders:
            if step not in place:
                break
            place = place[step]
            if place is None:  # It is a file.
                return False
            new += 1
        else:
            if last in place:
                return False
        for step in folders[new:]:
            place[step] = place = {}
            self._folders += 1
        place[last] = None
        self._files += 1
        # Text that is not ASCII may take four bytes for each character, here and in the directory.
        self._bytes += len(name) * (1 if name.isascii() else 4)
        return True


def _safe_name(name: str) -> str | None:
    path = PurePosixPath(name)
    text = str(path)
    if path.is_absolute() or ".." in path.parts or len(text) > _MOST_NAME:
        return None
    if not 1 <= len(path.parts) <= _MOST_STEPS:
        return None
    if not text.isprintable() or "\\" in text:
        return None
    return text


def _document(parts: ResultParts, damage: str) -> dict[str, Any]:
    task, attempt = parts.task, parts.attempt
    document: dict[str, Any] = {
        "task_id": task.client_id or task.id,
        "name": task.name,
        "state": task.state.value,
        "reason": task.reason.value if task.reason is not None else None,
        "detail": task.detail,
        "exit_code": task.exit_code,
        "attempts": task.attempt,
        "submitted_at": task.submitted_at,
        "started_at": task.started_at,
        "finished_at": task.finished_at,
        "usage": attrs.asdict(attempt.usage) if attempt is not None else None,
        "node": attempt.node_id if attempt is not None else None,
    }
    if damage:
        document["outputs"] = damage
    return document
