"""The /etc that tasks see, where their root file system brings none."""

# Descriptors and plain strings throughout; pathlib would slow the start.
# ruff: noqa: PTH103, PTH112, PTH113, PTH115, PTH120, PTH123, PTH211

from __future__ import annotations

import contextlib
import os

_TASK_ID = 1000

_PASSWD = (
    f"task:x:{_TASK_ID}:{_TASK_ID}:task:/task:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
)
_GROUP = f"task:x:{_TASK_ID}:\nnogroup:x:65534:\n"
_HOSTS = "127.0.0.1 localhost sandbox\n::1 localhost\n"
_NSSWITCH = "passwd: files\ngroup: files\nhosts: files dns\n"

_MOST_NETWORK_BYTES = 1 << 20

# Public data that programs read from /etc: how to find libraries, certificates, types, fonts.
_ETC_FILES = (
    "ld.so.cache",
    "ld.so.conf",
    "localtime",
    "mime.types",
    "protocols",
    "services",
    "ssl/openssl.cnf",
)
_ETC_FOLDERS = (
    "alternatives",
    "ca-certificates",
    "fonts",
    "pki/ca-trust/extracted",
    "pki/tls/certs",
    "ssl/certs",
)


def build(etc: str) -> None:
    """Fill an empty folder: one user `task`, no names of the host, and public data.

    Raises:
        OSError: a file could not be read or written.
    """
    for name, text in (
        ("passwd", _PASSWD),
        ("group", _GROUP),
        ("hosts", _HOSTS),
        ("nsswitch.conf", _NSSWITCH),
        ("resolv.conf", ""),  # a place to show the machine's own at
    ):
        with open(f"{etc}/{name}", "w", encoding="ascii") as file:
            file.write(text)
    for name in _ETC_FILES:
        source = f"/host/etc/{name}"
        if os.path.isfile(source):
            os.makedirs(os.path.dirname(f"{etc}/{name}"), exist_ok=True)
            _copy(source, f"{etc}/{name}")
    for name in _ETC_FOLDERS:
        source = f"/host/etc/{name}"
        if os.path.isdir(source):
            _copy_tree(source, f"{etc}/{name}")


def _copy(source: str, target: str) -> None:
    with open(source, "rb") as read, open(target, "wb") as write:
        write.write(read.read())


def _copy_tree(source: str, target: str) -> None:
    """Copied, not bound: each mount would cost every run. What we may not read, no task gets."""
    os.makedirs(target, exist_ok=True)
    for entry in os.scandir(source):
        to = f"{target}/{entry.name}"
        with contextlib.suppress(OSError):
            if entry.is_symlink():
                os.symlink(os.readlink(entry.path), to)
            elif entry.is_dir():
                _copy_tree(entry.path, to)
            elif entry.is_file():
                _copy(entry.path, to)


def network_files() -> dict[str, bytes]:
    """What a program on the machine's own network needs to find others by their names."""
    found = {"resolv.conf": b"", "hosts": _HOSTS.encode()}
    for name in found:
        with contextlib.suppress(OSError), open(f"/etc/{name}", "rb") as file:
            found[name] = file.read(_MOST_NETWORK_BYTES)
    return found
