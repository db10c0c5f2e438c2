"""Writing what a finished task left in its output folder, and where else its spec says, as a tar.

The tree is hostile: it is walked with openat2 below the task's own mount, following no link and
crossing no mount, each file is opened without blocking and judged by its descriptor. Regular files
and folders are taken; everything else is named in the report and left out. A file's size counts
as the tar will hold it, so that a sparse file counts whole.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
from typing import NoReturn

from sandbox.spawner import linux, stage

_BLOCK_BYTES = 512
_COPY_BYTES = 1 << 20
_MAX_SKIPPED = 100
_MAX_DEPTH = 128
_MAX_USTAR_BYTES = 8**11 - 1
# Not the fault of what is to be opened: to leave it out for that would lose it.
_OUR_OWN_TROUBLE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO)
_RESOLVE = (
    linux.RESOLVE_BENEATH
    | linux.RESOLVE_NO_SYMLINKS
    | linux.RESOLVE_NO_XDEV
    | linux.RESOLVE_NO_MAGICLINKS
)


class _TooMuch(Exception):
    """The output passes a limit; the text says which."""


def collect_and_exit(
    task: str,
    folder: str,
    outputs: list[str],
    destination: int,
    report: int,
    max_bytes: int,
    max_files: int,
) -> NoReturn:
    """Write the tar, then one JSON line on `report`, and end this process."""
    line: dict[str, object] = {"error": "cannot collect the output: interrupted"}
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # a reader that left is an error to be told
    try:
        walk = _Walk(destination, max_bytes, max_files)
        top = os.open(task, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        walk.run(top, folder, outputs)
        line = {"files": walk.files, "bytes": walk.bytes, "skipped": walk.skipped}
    except _TooMuch as error:
        line = {"error": str(error)}
    except OSError as error:
        line = {"error": f"cannot collect the output: {error.strerror or error}"}
    except Exception as error:
        line = {"error": f"cannot collect the output: {type(error).__name__}: {error}"}
    finally:
        os.write(report, json.dumps(line).encode() + b"\n")
        os._exit(0)  # never back into the spawner's loop


class _Walk:
    def __init__(self, destination: int, max_bytes: int, max_files: int) -> None:
        self._destination = destination
        self._max_bytes = max_bytes
        self._max_files = max_files
        self.files = 0
        self.bytes = 0
        self.skipped: list[str] = []
        self._entries = 0
        self._taken_files: set[str] = set()
        self._taken_folders: set[str] = set()

    def run(self, top: int, folder: str, outputs: list[str]) -> None:
        """Walk the folder, then each of the outputs, and end the tar."""
        try:
            root = linux.openat2(top, folder, os.O_RDONLY | os.O_DIRECTORY, _RESOLVE)
        except OSError as error:
            if error.errno in _OUR_OWN_TROUBLE:
                raise
            self._skip(folder)  # the task removed it, or put something else in its place
        else:
            self._walk(root, "")
        for path in _outermost(outputs):
            if not all(self._claim_folder(parent) for parent in _parents(path)):
                self._skip(path)
                continue
            below = self._take(top, path, path, path.count("/") + 1)
            if below is not None:
                self._walk(below, f"{path}/")
        self._write(bytes(2 * _BLOCK_BYTES))

    def _walk(self, root: int, prefix: str) -> None:
        """Take what lies below a folder, without recursion, in the order of names."""
        # One open descriptor per level: the depth is bounded, so they are too.
        stack = [(root, prefix, iter(self._names(root)))]
        while stack:
            descriptor, prefix, names = stack[-1]
            name = next(names, None)
            if name is None:
                os.close(descriptor)
                stack.pop()
                continue
            path = prefix + name
            below = self._take(descriptor, name, path, path.count("/") + 1)
            if below is not None:
                stack.append((below, f"{path}/", iter(self._names(below))))

    def _names(self, folder: int) -> list[str]:
        names: list[str] = []
        with os.scandir(folder) as entries:
            for entry in entries:
                names.append(entry.name)
                self._entries += 1
                if self._entries > 4 * self._max_files + 1000:
                    raise _TooMuch(f"the output has more than {self._max_files} files")
        return sorted(names)

    def _take(self, folder: int, name: str, path: str, depth: int) -> int | None:
        """Write one entry; for a folder, return its descriptor for the walk to go on below."""
        if not _is_plain(path):
            self._skip(path)
            return None
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_NOFOLLOW
        try:
            descriptor = linux.openat2(folder, name, flags, _RESOLVE)
        except OSError as error:
            if error.errno in _OUR_OWN_TROUBLE:
                raise
            self._skip(path)  # a link, a socket
            return None
        status = os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode) and depth < _MAX_DEPTH and self._claim_folder(path):
            self._count_entry()
            self._write(_header(path + "/", status, 0, b"5"))
            return descriptor
        if stat.S_ISREG(status.st_mode) and self._claim_file(path):
            self._count_entry()
            self.files += 1
            self._copy(descriptor, path, status)
        else:
            self._skip(path)  # a pipe, a folder that lies too deep, a name that is taken
        os.close(descriptor)
        return None

    def _claim_folder(self, path: str) -> bool:
        """Whether the tar has no file of that name, and from now on will have none."""
        if path in self._taken_files:
            return False
        self._taken_folders.add(path)
        return True

    def _claim_file(self, path: str) -> bool:
        """Whether the tar had nothing of that name yet."""
        if path in self._taken_files or path in self._taken_folders:
            return False
        self._taken_files.add(path)
        return True

    def _count_entry(self) -> None:
        self._max_files -= 1
        if self._max_files < 0:
            raise _TooMuch("the output has too many files and folders")

    def _copy(self, descriptor: int, path: str, status: os.stat_result) -> None:
        self.bytes += status.st_size
        if self.bytes > self._max_bytes:
            raise _TooMuch(f"the output is larger than {self._max_bytes} bytes")
        self._write(_header(path, status, status.st_size, b"0"))
        left = status.st_size
        while left:
            data = os.read(descriptor, min(left, _COPY_BYTES))
            if not data:
                raise OSError(5, "a file of the output became shorter while it was read")
            left -= len(data)
            self._write(data)
        self._write(bytes(-status.st_size % _BLOCK_BYTES))

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._destination, view) :]

    def _skip(self, path: str) -> None:
        if len(self.skipped) < _MAX_SKIPPED:
            self.skipped.append(repr(path[:200])[1:-1])


def _outermost(paths: list[str]) -> list[str]:
    """Each path once, and none that lies below another."""
    unique = dict.fromkeys(paths)
    return [path for path in unique if not any(parent in unique for parent in _parents(path))]


def _parents(path: str) -> list[str]:
    steps = path.split("/")
    return ["/".join(steps[:count]) for count in range(1, len(steps))]


def _is_plain(path: str) -> bool:
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return not any(stage.is_control(character) for character in path)


def _header(path: str, status: os.stat_result, size: int, kind: bytes) -> bytes:
    """One member's header: ustar, preceded by a pax record for what ustar cannot hold."""
    name = path.encode()
    records = b""
    if len(name) > 100 or not path.isascii():
        records += _pax_record("path", path)
        name = name[:100]
    if size > _MAX_USTAR_BYTES:
        records += _pax_record("size", str(size))
        size = 0
    mode = 0o755 if status.st_mode & 0o111 else 0o644
    modified = max(0, min(int(status.st_mtime), _MAX_USTAR_BYTES))
    block = _ustar(name, mode, size, modified, kind)
    if not records:
        return block
    padding = bytes(-len(records) % _BLOCK_BYTES)
    return _ustar(b"pax", 0o644, len(records), modified, b"x") + records + padding + block


def _pax_record(key: str, value: str) -> bytes:
    body = f" {key}={value}\n".encode()
    length = len(body)
    while length != len(body) + len(str(length)):
        length = len(body) + len(str(length))
    return str(length).encode() + body


def _ustar(name: bytes, mode: int, size: int, modified: int, kind: bytes) -> bytes:
    block = bytearray(_BLOCK_BYTES)
    block[0 : len(name)] = name
    block[100:108] = b"%07o\0" % mode
    block[108:116] = block[116:124] = b"%07o\0" % 0
    block[124:136] = b"%011o\0" % size
    block[136:148] = b"%011o\0" % modified
    block[148:156] = b" " * 8
    block[156:157] = kind
    block[257:265] = b"ustar\x0000"
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)
