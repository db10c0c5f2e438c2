"""A fork of a warm interpreter becomes what `python3 script.py` would have been.

The main program of the warm interpreter imports this module before anything else, then all that it
needs itself, calls `preload` once. For each task it calls `Warm.plan`, forks, and in the child
calls `Warm.become` and *returns*. The task runs after the main program's last frame is gone, called
by the interpreter itself: CPython flushes sys.stderr when a main program has ended, and `become`
leaves an object there whose `flush` is PyRun_SimpleFileExFlags, the very function that runs a
script. So no frame of ours is below the task's; tracebacks, SystemExit and sys.excepthook are the
interpreter's own work, and so is the end: Py_Exit, unless a look at all that the task left shows
that nobody could tell the difference (see `unseen`).

What a task can tell: hash randomisation and the address layout are those of its siblings; the warm
interpreter's objects are hidden from gc but counted (`gc.get_freeze_count()`), and its classes are
among `object.__subclasses__()`; /proc/self/cmdline and /proc/self/environ are the warm one's.
"""

# Runs before every task: plain strings and descriptors throughout, pathlib would slow the start.
# ruff: noqa: PTH100, PTH109, PTH112, PTH113, PTH116, PTH118, PTH120, PTH208

from __future__ import annotations

import sys

# What a fresh interpreter has imported. `__future__` is this file's own doing.
_FRESH = {n: module for n, module in sys.modules.items() if n not in (__name__, "__future__")}
_FRESH_PATH = sys.path[1:]
_FRESH_IMPORTERS = {
    place: finder
    for place, finder in sys.path_importer_cache.items()
    if place.startswith(tuple(_FRESH_PATH))
}

import _io  # noqa: E402
import _signal  # type: ignore[import-not-found]  # noqa: E402
import atexit  # noqa: E402
import builtins  # noqa: E402
import ctypes  # noqa: E402
import gc  # noqa: E402
import os  # noqa: E402
import site  # noqa: E402
import stat  # noqa: E402
import time  # noqa: E402

TYPE_CHECKING = False  # typing is large, and a larger interpreter forks more slowly
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

if TYPE_CHECKING or __package__:
    from sandbox.launcher.streams import Streams
    from sandbox.launcher.unseen import ends_unseen
else:  # in a cell this folder stands alone
    from streams import Streams
    from unseen import ends_unseen

_LOCALE = "C.UTF-8"
_VARIABLES = frozenset(("PYTHONUNBUFFERED", "PYTHONPATH"))
# Read by the loader, the C library or the interpreter before a program's first line.
_READ_AT_START = ("PYTHON", "LD_", "LC_", "LANGUAGE", "GLIBC_", "MALLOC_", "LOCPATH", "NLSPATH")
# From here on, -c remembers its source for tracebacks, and error messages know the script's folder,
# both by private means.
_REMEMBERS_START = (3, 13)
_IGNORE_COOKIE = 0x0200  # PyCF_IGNORE_COOKIE: the source of -c is UTF-8
_USUAL_PATHS = ("/usr/bin:/bin", "/usr/bin:/bin:/usr/local/bin:/usr/sbin:/sbin")


class CannotBecomeError(Exception):
    """A start that cannot be reproduced here; nothing has been changed, so execute the real one."""


class Start:
    """A command line of the interpreter, read.

    Attributes:
        code: what follows -c; None for a script.
        script: the script's path; None for -c.
        argv: what becomes sys.argv.
        orig_argv: the whole command line.
        unbuffered: whether -u was given.
    """

    __slots__ = ("argv", "code", "orig_argv", "script", "unbuffered")

    def __init__(
        self,
        code: str | None,
        script: str | None,
        argv: list[str],
        orig_argv: list[str],
        unbuffered: bool,
    ) -> None:
        self.code, self.script = code, script
        self.argv, self.orig_argv, self.unbuffered = argv, orig_argv, unbuffered


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
        # What is put away stays whole: to take it apart would cost each task time.
        self._put_away = [module for name, module in sys.modules.items() if name not in _FRESH]
        self._depth = _recursion_counter()
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
        self._streams = Streams()
        self._own: list[int] = []
        self._stages: list[_Stage] = []
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
        start = read_argv(argv)
        if start is None or (start.code is not None and sys.version_info >= _REMEMBERS_START):
            return None
        return start

    def rehearse(self, argv: Sequence[str], env: Mapping[str, str]) -> None:
        """In a fork, do to no effect what `plan`, `become` and a task's first line will do."""
        self.plan(argv, {**env, "LANG": _LOCALE})
        self._code("")
        line = compile("print('', end='', file=file)\n", "<string>", "exec")
        exec(line, {"file": _io.StringIO()})  # noqa: S102 - our own

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
        run = (
            self._script(start.script, path[0])
            if start.script is not None
            else self._code(start.code)
        )

        if base is not None and self._site_tail is not None:
            site.USER_BASE, site.USER_SITE = base, base + self._site_tail
        self._set_environment(env)
        sys.path[:0] = path
        sys.argv[:] = start.argv
        if hasattr(sys, "orig_argv"):  # new in 3.10
            sys.orig_argv[:] = start.orig_argv
        streams = self._streams.take(start.unbuffered or bool(env.get("PYTHONUNBUFFERED")))
        self._own = [id(stream) for stream in streams]
        sys.stdin, sys.stdout, sys.stderr = streams
        vars(sys).update({"__stdin__": streams[0], "__stdout__": streams[1]})
        vars(sys)["__stderr__"] = streams[2]
        _new_main()
        gc.enable()
        if self._depth is not None:
            counter, undo = self._depth
            counter.contents.value += undo
        run.errcheck = self._end
        self._stage(run, "stderr")

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
        try:
            source = f"{code}\n".encode()  # as the interpreter itself ends it
        except UnicodeEncodeError:
            raise CannotBecomeError("the code is not UTF-8") from None
        return self._run_code.ready(source, ctypes.addressof(self._flags[1]))

    def _script(self, script: str, folder: str) -> Any:  # noqa: ANN401 (a ctypes function)
        path = script if script.startswith("/") else f"{os.getcwd().rstrip('/')}/{script}"
        try:
            regular = stat.S_ISREG(os.stat(path).st_mode)
        except OSError:
            regular = False
        file = self._libc.fopen(os.fsencode(path), b"rbe") if regular else None
        if not file:
            raise CannotBecomeError("not a file that can be read")
        if self._get_importer(path) is not None:
            raise CannotBecomeError("an archive")
        if sys.version_info >= _REMEMBERS_START and any(
            name.split(".")[0] in sys.stdlib_module_names for name in os.listdir(folder)
        ):
            raise CannotBecomeError(
                "beside the script lies what has a name of the standard library"
            )
        return self._run_file.ready(file, os.fsencode(path), 1, ctypes.addressof(self._flags[0]))

    def _end(self, status: int, function: object, words: object) -> None:
        """Called with what the program's run came to, when no frame of it is left."""
        if status and issubclass(getattr(sys, "last_type", type(None)), KeyboardInterrupt):
            return  # the main program ends too, and the interpreter kills itself by SIGINT
        code = 1 if status else 0
        try:
            if ends_unseen(self._own, _FRESH) and _flushed():
                os._exit(code)
        finally:  # an error, an interrupt say, is forgotten by whoever flushed; the status is not
            self._stage(self._exit.ready(code), "stdout")

    def _stage(self, function: Callable[[], object], name: str) -> None:
        self._stages.append(_Stage(function, name))


class _Function:
    """A function of the C API that is called without arguments: `ready` gives them as defaults."""

    def __init__(self, name: str, *kinds: Any) -> None:  # noqa: ANN401 (ctypes types)
        self._prototype = ctypes.PYFUNCTYPE(ctypes.c_int, *kinds)
        self._where = (name, ctypes.pythonapi)

    def ready(self, *words: object) -> Any:  # noqa: ANN401 (a ctypes function)
        return self._prototype(self._where, tuple((1, "word", word) for word in words))


class _Stage:
    """Stands in for a standard stream until the interpreter flushes it, which starts `function`."""

    def __init__(self, function: Callable[[], object], name: str) -> None:
        self._function, self._name = function, name
        self._stream = getattr(sys, name, self)
        setattr(sys, name, self)

    @property
    def flush(self) -> Callable[[], object]:
        """Looked up before it is called; by then the stream is back in its place."""
        stream, self._stream = self._stream, self
        if stream is self:
            delattr(sys, self._name)
        else:
            setattr(sys, self._name, stream)
        return self._function


def _recursion_counter() -> tuple[Any, int] | None:
    """Where is counted how deep C calls are nested, and what undoes one. None from 3.13.

    The task is called through one C function more than a program is, which must not show in where
    its recursion ends. PyThreadState is private: the field is found by what it holds.

    Raises:
        RuntimeError: the field is not where it was; this interpreter must not be warmed.
    """
    version = sys.version_info[:2]
    if version > (3, 12):
        return None
    state = ctypes.pythonapi.PyThreadState_Get
    state.restype = ctypes.c_void_p
    fields = ctypes.cast(state(), ctypes.POINTER(ctypes.c_int))
    if version == (3, 12):  # py_recursion_remaining, py_recursion_limit, c_recursion_remaining
        at, undo = _find_limit(fields) + 1, 1
    elif version == (3, 11):  # recursion_remaining, recursion_limit
        at, undo = _find_limit(fields) - 1, 1
    else:  # prev, next, interp, frame, recursion_depth
        at, undo = 4 * ctypes.sizeof(ctypes.c_void_p) // ctypes.sizeof(ctypes.c_int), -1
    (deeper,) = map(lambda place: fields[place], [at])  # noqa: C417 (a call through C is meant)
    if not 0 < (fields[at] - deeper) * undo < 4:
        raise RuntimeError("this interpreter counts recursion at an unknown place")
    place = ctypes.addressof(fields.contents) + ctypes.sizeof(ctypes.c_int) * at
    return ctypes.cast(place, ctypes.POINTER(ctypes.c_int)), undo


def _find_limit(fields: Any) -> int:  # noqa: ANN401 (a pointer to int)
    old = sys.getrecursionlimit()
    found = set(range(1, 32))
    try:
        for limit in (old + 1357, old + 2468):
            sys.setrecursionlimit(limit)
            found = {number for number in found if fields[number] == limit}
    finally:
        sys.setrecursionlimit(old)
    if len(found) != 1:
        raise RuntimeError("this interpreter counts recursion at an unknown place")
    return found.pop()


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


def _new_main() -> None:
    """A new __main__. The interpreter keeps the old one while the old main program ends."""
    old = sys.modules["__main__"].__dict__
    main = type(sys)("__main__")
    main.__loader__ = sys.modules["_frozen_importlib"].BuiltinImporter
    names = main.__dict__
    if "__annotations__" in old:
        names["__annotations__"] = {}
    names["__builtins__"] = builtins
    sys.modules["__main__"] = main


def _flushed() -> bool:
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
    except (OSError, ValueError):
        return False  # the interpreter tries once more, and complains
    return True
