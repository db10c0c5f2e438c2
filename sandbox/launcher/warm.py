"""A fork of a warm interpreter becomes what `python3 script.py` would have been.

The main program of the warm interpreter imports this module before anything else, then all that it
needs itself, calls `preload` once, forks, and in the child calls `Warm.become` and *returns*. The
task runs after the main program's
last frame is gone, called by the interpreter itself: CPython flushes sys.stderr when the main
program has ended, and `become` leaves an object there whose `flush` is PyRun_SimpleFileExFlags, the
very function that runs a script. So no frame of ours is below the task's, tracebacks, SystemExit
and sys.excepthook are the interpreter's own work, and so is the end: Py_Exit, unless a look at all
that the task left shows that nobody could tell the difference (see `_ends_unseen`).

What a task can tell: hash randomisation and the address layout are those of its siblings, gc holds
the warm interpreter's objects as frozen (`gc.get_freeze_count()`), /proc/self/cmdline and
/proc/self/environ are the warm interpreter's.
"""

# Runs before every task: plain strings and descriptors throughout, pathlib would slow the start.
# ruff: noqa: PTH100, PTH109, PTH112, PTH113, PTH118, PTH120

from __future__ import annotations

import sys

# What a fresh interpreter has imported. `__future__` is this file's own doing.
_FRESH = {n: module for n, module in sys.modules.items() if n not in (__name__, "__future__")}
_FRESH_IMPORTERS = dict(sys.path_importer_cache)
_FRESH_PATH = sys.path[1:]

import _io  # noqa: E402
import _signal  # noqa: E402
import _thread  # noqa: E402
import atexit  # noqa: E402
import builtins  # noqa: E402
import ctypes  # noqa: E402
import gc  # noqa: E402
import os  # noqa: E402
import site  # noqa: E402
import stat  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Mapping, Sequence  # noqa: E402
from typing import Any, NamedTuple  # noqa: E402

_LOCALE = "C.UTF-8"
_VARIABLES = frozenset(("PYTHONUNBUFFERED", "PYTHONPATH"))
# Read by the loader, the C library or the interpreter before a program's first line.
_READ_AT_START = ("PYTHON", "LD_", "LC_", "LANGUAGE", "GLIBC_", "MALLOC_", "LOCPATH", "NLSPATH")
_NEW_DOT_C = (3, 13)  # from here on, -c remembers its source for tracebacks, by a private function
_IGNORE_COOKIE = 0x0200  # PyCF_IGNORE_COOKIE: the source of -c is UTF-8
_USUAL_PATHS = ("/usr/bin:/bin", "/usr/bin:/bin:/usr/local/bin:/usr/sbin:/sbin")
_GC_FLAG = 1 << 14  # Py_TPFLAGS_HAVE_GC
# Extension modules whose objects do nothing that matters when a process ends under them.
_QUIET_EXTENSIONS = frozenset(
    [
        "_asyncio",
        "_bisect",
        "_blake2",
        "_bz2",
        "_contextvars",
        "_crypt",
        "_csv",
        "_datetime",
        "_decimal",
        "_elementtree",
        "_hashlib",
        "_heapq",
        "_json",
        "_lsprof",
        "_lzma",
        "_md5",
        "_opcode",
        "_pickle",
        "_posixsubprocess",
        "_queue",
        "_random",
        "_sha1",
        "_sha2",
        "_sha256",
        "_sha3",
        "_sha512",
        "_socket",
        "_ssl",
        "_statistics",
        "_struct",
        "_typing",
        "_uuid",
        "_zoneinfo",
        "array",
        "audioop",
        "binascii",
        "cmath",
        "fcntl",
        "grp",
        "math",
        "mmap",
        "pyexpat",
        "resource",
        "select",
        "termios",
        "unicodedata",
        "zlib",
    ]
)
_MAIN_NAMES = (
    "__name__", "__doc__", "__package__", "__loader__", "__spec__", "__annotations__", "__builtins__"
)  # fmt: skip


class CannotBecomeError(Exception):
    """This start cannot be reproduced here; nothing has been changed, so execute the real one."""


class Start(NamedTuple):
    """A command line of the interpreter, read.

    Attributes:
        code: what follows -c; None for a script.
        script: the script's path; None for -c.
        argv: what becomes sys.argv.
        orig_argv: the whole command line.
        unbuffered: whether -u was given.
    """

    code: str | None
    script: str | None
    argv: list[str]
    orig_argv: list[str]
    unbuffered: bool


def read_argv(argv: Sequence[str]) -> Start | None:
    """The parts of `python3 [-u] (SCRIPT | -c CODE) ARGUMENTS`; None for any other command line."""
    words = list(argv[1:])
    unbuffered = bool(words) and words[0] == "-u"
    if unbuffered:
        del words[0]
    if len(words) >= 2 and words[0] == "-c":
        return Start(words[1], None, ["-c", *words[2:]], list(argv), unbuffered)
    if words and words[0] and not words[0].startswith("-"):
        return Start(None, words[0], words, list(argv), unbuffered)
    return None


def can_start(argv: Sequence[str], env: Mapping[str, str], interpreter: str) -> bool:
    """Whether a fork of a warm `interpreter` can stand for this start, as far as words can tell.

    What needs a look at files is judged by `become`.

    Args:
        argv: the whole command line.
        env: the task's whole environment.
        interpreter: the warm interpreter's absolute path (its sys.executable).
    """
    if not argv or argv[0] not in ("python3", interpreter) or read_argv(argv) is None:
        return False
    if env.get("LANG") != _LOCALE:
        return False
    return not any(name.startswith(_READ_AT_START) and name not in _VARIABLES for name in env)


def preload() -> Warm:
    """Do once what every task would do anew, and make the interpreter look as if it were fresh.

    Afterwards sys.modules, sys.path and the signal handlers are a fresh interpreter's: whatever the
    main program still needs it must have imported, and it must set no handlers.
    """
    # The types of the syntax tree are built when the first source is compiled.
    compile("def f(x):\n    return [f'{x}', x + 1]\n\nclass C:\n    pass\n", "<warm>", "exec")
    warm = Warm()
    _reset_signals()
    atexit._clear()
    for name in set(sys.modules) - set(_FRESH):
        del sys.modules[name]
    sys.path[:] = _FRESH_PATH
    sys.path_importer_cache.clear()
    sys.path_importer_cache.update(_FRESH_IMPORTERS)
    gc.collect()
    gc.freeze()
    return warm


class Warm:
    """A warm interpreter, ready to fork."""

    def __init__(self) -> None:
        self._modules = list(sys.modules.values())  # to take them apart would cost each task time
        self._libc = ctypes.CDLL(None)
        self._libc.fopen.restype = ctypes.c_void_p
        self._clearenv = self._libc.clearenv
        self._get_importer = ctypes.pythonapi.PyImport_GetImporter
        self._get_importer.argtypes = (ctypes.py_object,)
        self._get_importer.restype = ctypes.py_object
        c_int, text, pointer = ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p
        self._run_code = _Function("PyRun_SimpleStringFlags", text, pointer)
        self._run_file = _Function("PyRun_SimpleFileExFlags", pointer, text, c_int, pointer)
        self._exit = _Function("Py_Exit", c_int)
        self._flags = [(c_int * 2)(bits, sys.version_info.minor) for bits in (0, _IGNORE_COOKIE)]
        self._streams = _Streams()
        self._site_tail: str | None = None
        if site.USER_SITE is not None and site.USER_BASE is not None:
            self._site_tail = site.USER_SITE[len(site.USER_BASE) :]
        self._found = {path: _find("python3", path) for path in (os.defpath, *_USUAL_PATHS)}

    def plan(self, argv: Sequence[str], env: Mapping[str, str]) -> Start | None:
        """What `become` takes, worked out before the fork; None for a start that needs an exec."""
        if not can_start(argv, env, sys.executable):
            return None
        search = env.get("PATH", os.defpath)
        if argv[0] != sys.executable:
            found = self._found[search] if search in self._found else _find(argv[0], search)
            if found != sys.executable:
                return None
        return read_argv(argv)

    def become(self, start: Start, env: Mapping[str, str]) -> None:
        """Make this process, a fork of the warm one, the start that was planned, in `env`.

        The caller has set descriptors 0 to 2, the working folder, privileges and limits. When this
        returns, the caller must return too, out of the last line of the main program, touching
        neither sys.stdout nor sys.stderr: what then runs is the task, and the process ends with it.

        Raises:
            CannotBecomeError: nothing was changed; the caller executes the command instead.
        """
        base = self._user_base(env)
        path = _search_path(start, env)
        run = self._script(start.script) if start.script is not None else self._code(start.code)

        if base is not None and self._site_tail is not None:
            site.USER_BASE, site.USER_SITE = base, base + self._site_tail
        self._set_environment(env)
        sys.path[:0] = path
        sys.argv[:] = start.argv
        sys.orig_argv[:] = start.orig_argv
        streams = self._streams.take(start.unbuffered or bool(env.get("PYTHONUNBUFFERED")))
        sys.stdin, sys.stdout, sys.stderr = streams
        sys.__stdin__, sys.__stdout__, sys.__stderr__ = streams
        _reset_main()
        gc.enable()
        run.errcheck = self._end
        sys.stderr = _Stage(run, "stderr", streams[2])

    def _user_base(self, env: Mapping[str, str]) -> str | None:
        if self._site_tail is None:
            return None
        base = env.get("HOME", "")
        if not base.startswith("/"):
            raise CannotBecomeError("without HOME the user's own site-packages are unknown")
        base = f"{base.rstrip('/')}/.local"
        if os.access(base + self._site_tail, os.F_OK):
            raise CannotBecomeError("the user's own site-packages are read at a real start")
        return base

    def _set_environment(self, env: Mapping[str, str]) -> None:
        data: dict[bytes, bytes] = os.environ._data  # type: ignore[attr-defined]
        data.clear()
        self._clearenv()
        for name, value in env.items():
            word, text = (
                name.encode("utf-8", "surrogateescape"),
                value.encode("utf-8", "surrogateescape"),
            )
            os.putenv(word, text)
            data[word] = text
        if "TZ" in env:
            time.tzset()

    def _code(self, code: str | None) -> Any:  # noqa: ANN401 (a ctypes function)
        if sys.version_info >= _NEW_DOT_C:
            raise CannotBecomeError("from Python 3.13 on, -c needs an interpreter of its own")
        try:
            source = str(code).encode()
        except UnicodeEncodeError:
            raise CannotBecomeError("the code is not UTF-8") from None
        return self._run_code.ready(source, ctypes.addressof(self._flags[1]))

    def _script(self, script: str) -> Any:  # noqa: ANN401 (a ctypes function)
        try:
            regular = stat.S_ISREG(os.stat(script).st_mode)
        except OSError:
            regular = False
        if not regular or not os.access(script, os.R_OK):
            raise CannotBecomeError("not a file that can be read")
        if self._get_importer(script) is not None:
            raise CannotBecomeError("a folder or an archive")
        file = self._libc.fopen(os.fsencode(script), b"rbe")
        if not file:
            raise CannotBecomeError("not a file that can be read")
        path = script if script.startswith("/") else f"{os.getcwd().rstrip('/')}/{script}"
        return self._run_file.ready(file, os.fsencode(path), 1, ctypes.addressof(self._flags[0]))

    def _end(self, status: int, function: object, words: object) -> None:
        """Called with what the program's run came to, when no frame of it is left."""
        if status and issubclass(getattr(sys, "last_type", type(None)), KeyboardInterrupt):
            return  # the main program ends too, and the interpreter kills itself by SIGINT
        code = 1 if status else 0
        if ends_unseen(self._streams.mine) and _flushed():
            os._exit(code)
        sys.stdout = _Stage(self._exit.ready(code), "stdout", sys.stdout)


class _Function:
    """A function of the C API that is called without arguments: `ready` gives them as defaults."""

    def __init__(self, name: str, *kinds: Any) -> None:  # noqa: ANN401 (ctypes types)
        self._prototype = ctypes.PYFUNCTYPE(ctypes.c_int, *kinds)
        self._where = (name, ctypes.pythonapi)

    def ready(self, *words: object) -> Any:  # noqa: ANN401 (a ctypes function)
        return self._prototype(self._where, tuple((1, "word", word) for word in words))


class _Stage:
    """Stands in for a standard stream until the interpreter flushes it, which starts `function`."""

    def __init__(self, function: Callable[[], object], name: str, stream: object) -> None:
        self._function, self._name, self._stream = function, name, stream

    @property
    def flush(self) -> Callable[[], object]:
        """Looked up before it is called; by then the stream is back in its place."""
        setattr(sys, self._name, self._stream)
        return self._function


class _Streams:
    """The standard streams, made ahead for pipes, which is what they nearly always are."""

    def __init__(self) -> None:
        self._old = (sys.__stdin__, sys.__stdout__, sys.__stderr__)
        kept = [(number, os.dup(number)) for number in range(3) if _is_open(number)]
        reader, writer = os.pipe()
        try:
            for number, end in enumerate((reader, writer, writer)):
                os.dup2(end, number)
            self._pipes = [self._open(number, False) for number in range(3)]
            null = os.open("/dev/null", os.O_RDONLY)
            os.dup2(null, 0)
            os.close(null)
            self._null = self._open(0, False)
            self._null_device = os.fstat(0).st_rdev
        finally:
            for number in range(3):
                os.close(number)
            for number, copy in kept:
                os.dup2(copy, number)
                os.close(copy)
            os.close(reader)
            os.close(writer)
        self.mine: list[object] = []

    def take(self, unbuffered: bool) -> list[Any]:
        streams = [self._take(number, unbuffered) for number in range(3)]
        for stream in filter(None, streams):
            buffer = stream.buffer
            self.mine += [stream, buffer, getattr(buffer, "raw", buffer)]
        return streams

    def _take(self, number: int, unbuffered: bool) -> Any:  # noqa: ANN401
        try:
            status = os.fstat(number)
        except OSError:
            return None
        if not unbuffered and stat.S_ISFIFO(status.st_mode):
            return self._pipes[number]
        if not unbuffered and number == 0 and status.st_rdev == self._null_device:
            return self._null
        return self._open(number, unbuffered)

    def _open(self, number: int, unbuffered: bool) -> Any:  # noqa: ANN401
        """A standard stream as the interpreter makes it (`create_stdio` in pylifecycle.c)."""
        mode = "rww"[number]
        buffering = 0 if unbuffered and mode == "w" else -1
        buffer: Any = _io.open(number, mode + "b", buffering, closefd=False)
        raw = getattr(buffer, "raw", buffer)
        raw.name = ("<stdin>", "<stdout>", "<stderr>")[number]
        stream: Any = _io.TextIOWrapper(
            buffer,
            encoding=self._old[number].encoding,
            errors=self._old[number].errors,
            newline="\n",
            line_buffering=not unbuffered and (number == 2 or raw.isatty()),
            write_through=unbuffered,
        )
        stream.mode = mode
        return stream


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _find(name: str, path: str) -> str | None:
    for folder in path.split(":"):
        if os.access(found := os.path.join(folder, name), os.X_OK) and os.path.isfile(found):
            return found
    return None


def _search_path(start: Start, env: Mapping[str, str]) -> list[str]:
    """What sys.path begins with: the start's own folder and PYTHONPATH."""
    path = [os.path.dirname(os.path.realpath(start.script)) if start.script is not None else ""]
    if not env.get("PYTHONPATH"):
        return path
    for word in env["PYTHONPATH"].split(":"):
        entry = os.path.abspath(word)
        if not os.path.isdir(entry) or any(
            name.startswith(("sitecustomize", "usercustomize")) for name in os.listdir(entry)
        ):
            raise CannotBecomeError("PYTHONPATH holds what is read at a real start")
        if entry not in path[1:] and entry not in _FRESH_PATH:
            path.append(entry)
    return path


def _reset_signals() -> None:
    for number in _signal.valid_signals():
        handler: Any = _signal.SIG_DFL
        if number == _signal.SIGINT:
            handler = _signal.default_int_handler
        elif number in (_signal.SIGPIPE, _signal.SIGXFSZ):
            handler = _signal.SIG_IGN
        if _signal.getsignal(number) not in (handler, None):
            _signal.signal(number, handler)
    _signal.set_wakeup_fd(-1)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())


def _reset_main() -> None:
    names = sys.modules["__main__"].__dict__
    kept = [name for name in _MAIN_NAMES if name in names]
    names.clear()
    names.update(dict.fromkeys(kept))
    names["__name__"] = "__main__"
    names["__loader__"] = sys.modules["_frozen_importlib"].BuiltinImporter
    names["__builtins__"] = builtins
    if "__annotations__" in names:
        names["__annotations__"] = {}


def _flushed() -> bool:
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except (OSError, ValueError):
        return False  # the interpreter tries once more, and complains
    return True


def ends_unseen(streams: Sequence[object]) -> bool:
    """Whether nothing is left that could act, or be seen, while the interpreter is taken down.

    Then the process may end at once: no thread, no exit hook, nothing with a finaliser, no callback
    of a weak reference, no extension module that could keep data back. `streams` are to be flushed
    by the caller and do not count.
    """
    modules = sys.modules
    if _thread._count() or atexit._ncallbacks():  # type: ignore[attr-defined]
        return False
    threads = modules.get("threading")
    if threads is not None and getattr(threads, "_threading_atexits", True):
        return False
    for name, module in list(modules.items()):
        if name not in _FRESH and not _is_quiet(name, module):
            return False
    own = {id(stream) for stream in streams}
    seen: dict[int, bool] = {}
    for thing in gc.get_objects():
        kind = type(thing)
        if id(kind) not in seen:
            seen[id(kind)] = _has_end(kind)
        if seen[id(kind)] and id(thing) not in own:
            return False
        if kind is type or type in _mro(kind):
            # Instances that the collector does not know of can hide anywhere.
            if not _type_flags(thing) & _GC_FLAG and _has_end(thing):
                return False
        elif _is_watched(thing, kind):
            return False
    return True


def _is_quiet(name: str, module: object) -> bool:
    if type(module) is not type(sys):
        return False
    file = module.__dict__.get("__file__")
    return not (isinstance(file, str) and file.endswith(".so")) or name in _QUIET_EXTENSIONS


# Looked up past any metaclass: asking must not run the task's own code.
_type_dict = type.__dict__["__dict__"].__get__
_mro = type.__dict__["__mro__"].__get__
_type_flags = type.__dict__["__flags__"].__get__
_reference = type(__import__("_weakref").ref(Warm))
_callback = _reference.__dict__["__callback__"].__get__


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
