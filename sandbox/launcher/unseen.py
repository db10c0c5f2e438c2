"""Whether a program that is over may end at once, since nobody could tell the difference.

To take an interpreter down costs more than a small program: each object is let go of one by one. It
is for finalisers, exit hooks and buffers. Asking must not run any code of the task's: types are
looked at past their metaclasses, and instances by identity.
"""

from __future__ import annotations

import _io
import _thread
import _weakref as weakref
import atexit
import gc
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Sequence
    from typing import Any

_MODULES = sys.modules
_GC_FLAG = 1 << 14  # Py_TPFLAGS_HAVE_GC
# Extension modules whose objects do nothing that matters when a process ends under them.
# fmt: off
_QUIET_EXTENSIONS = frozenset(
    (
        "_asyncio", "_bisect", "_blake2", "_bz2", "_contextvars", "_crypt", "_csv", "_datetime",
        "_decimal", "_elementtree", "_hashlib", "_heapq", "_json", "_lsprof", "_lzma", "_md5",
        "_opcode", "_pickle", "_posixsubprocess", "_queue", "_random", "_sha1", "_sha2",
        "_sha256", "_sha3", "_sha512", "_socket", "_ssl", "_statistics", "_struct", "_typing",
        "_uuid", "_zoneinfo", "array", "audioop", "binascii", "cmath", "fcntl", "grp", "math",
        "mmap", "pyexpat", "resource", "select", "termios", "unicodedata", "zlib"
    )
)
# fmt: on


def ends_unseen(streams: Sequence[int], fresh: Container[str]) -> bool:
    """Whether nothing is left that could act, or be seen, while the interpreter is taken down.

    Then the process may end at once: the streams are those it began with, no thread, no exit hook,
    nothing with a finaliser, no callback of a weak reference, no extension module that could keep
    data back.

    Args:
        streams: the ids of the three streams that it began with. The caller flushes them, so they
            do not count.
        fresh: names of the modules of a fresh interpreter.
    """
    modules = sys.modules
    if modules is not _MODULES:
        return False
    own: set[int] = set()
    for name, number in zip(("stdin", "stdout", "stderr"), streams):  # noqa: B905 (new in 3.10)
        stream: Any = getattr(sys, name, None)
        if id(stream) != number or stream is not getattr(sys, f"__{name}__", None):
            return False
        if stream is not None:
            try:
                buffer = stream.buffer
            except (AttributeError, ValueError):
                buffer = None
            if buffer is None:
                return False  # it was detached
            own |= {number, id(buffer), id(getattr(buffer, "raw", buffer))}
    # Up to 3.9 each import of atexit made hooks of its own.
    if _thread._count() or any(
        module._ncallbacks() for module in (atexit, modules.get("atexit", atexit))
    ):
        return False
    threads = modules.get("threading")
    if threads is not None and not _has_no_hooks(threads):
        return False
    for name, module in list(modules.items()):
        if name not in fresh and not _is_quiet(name, module):
            return False
    seen: dict[int, bool] = {}
    for thing in gc.get_objects():
        kind = type(thing)
        if id(kind) not in seen:
            seen[id(kind)] = _has_end(kind)
        if seen[id(kind)] and id(thing) not in own and not _is_closed_file(thing, kind):
            return False
        if kind is type or type in _mro(kind):
            # Instances that the collector does not know of can hide anywhere.
            if not _type_flags(thing) & _GC_FLAG and _has_end(thing):
                return False
        elif _is_watched(thing, kind):
            return False
    return True


def _has_no_hooks(threads: object) -> bool:
    """Whether the end of threading, which the interpreter calls, would do nothing."""
    if type(threads) is not type(sys):
        return False
    names = threads.__dict__
    shutdown = names.get("_shutdown")
    return (
        names.get("_threading_atexits") == []
        and type(shutdown) is type(_has_no_hooks)
        and shutdown.__globals__ is names
        and shutdown.__code__.co_name == "_shutdown"
    )


def _is_quiet(name: str, module: object) -> bool:
    if type(module) is not type(sys):
        return False
    file = module.__dict__.get("__file__")
    return not (isinstance(file, str) and file.endswith(".so")) or name in _QUIET_EXTENSIONS


# Looked up past any metaclass: asking must not run the task's own code.
_type_dict = type.__dict__["__dict__"].__get__
_mro = type.__dict__["__mro__"].__get__
_type_flags = type.__dict__["__flags__"].__get__
_reference = weakref.ref
_callback = _reference.__dict__["__callback__"].__get__


def _is_closed_file(thing: Any, kind: type) -> bool:  # noqa: ANN401
    """Whether it is a closed file as `open` makes them, so that no code of the task is asked."""
    inner = thing
    if kind is _io.TextIOWrapper:
        inner = inner.buffer
    if type(inner) in (_io.BufferedReader, _io.BufferedWriter, _io.BufferedRandom):
        inner = inner.raw
    return type(inner) is _io.FileIO and thing.closed


def _has_end(kind: type) -> bool:
    return any("__del__" in _type_dict(base) for base in _mro(kind))


def _is_watched(thing: object, kind: type) -> bool:
    """Whether it is a weak reference that calls the task's own code."""
    if _reference not in _mro(kind):
        return False
    callback = _callback(thing)
    if callback is None or type(callback) is type(len):
        return False
    return getattr(callback, "__module__", None) not in ("weakref", "_weakrefset")
