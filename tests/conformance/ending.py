"""How programs end: statuses, hooks, finalisers, threads."""

# Short programs stand on one line each.
# ruff: noqa: E501

from __future__ import annotations

from tests.conformance.case import Case, code, script

_EXITS: tuple[tuple[str, str, int], ...] = (
    ("without a value", "sys.exit()", 0),
    ("zero", "sys.exit(0)", 0),
    ("None", "sys.exit(None)", 0),
    ("one", "sys.exit(1)", 1),
    ("42", "sys.exit(42)", 42),
    ("256", "sys.exit(256)", 0),
    ("300", "sys.exit(300)", 44),
    ("minus one", "sys.exit(-1)", 255),
    ("a huge number", "sys.exit(1 << 80)", 255),
    ("true", "sys.exit(True)", 1),
    ("text", "sys.exit('a last word')", 1),
    ("a tuple", "sys.exit((1, 2))", 1),
    ("a float", "sys.exit(2.0)", 1),
    ("a class", "raise SystemExit", 0),
    ("an instance", "raise SystemExit(7)", 7),
    ("exit", "exit(5)", 5),
    ("quit", "quit('text')", 1),
    ("a subclass", "class E(SystemExit): code = 12\nraise E", 12),
    ("in a finally", "try:\n    1/0\nfinally:\n    sys.exit(3)", 3),
    ("in a function", "def f(): sys.exit(4)\nf()", 4),
)

CASES: tuple[Case, ...] = (
    *(
        script(f"exit with {name}", f"import sys\nprint('out')\n{source}\n", exit_code=status)
        for name, source, status in _EXITS
    ),
    code("exit in -c", "import sys; sys.exit(6)", exit_code=6),
    script(
        "_exit",
        "import os, sys\nprint('lost')\nsys.stderr.write('kept')\nos._exit(3)\n",
        exit_code=3,
    ),
    script("_exit after flush", "import os\nprint('kept', flush=True)\nos._exit(0)\n"),
    script(
        "exit inside a thread",
        "import threading, sys\nthreading.Thread(target=sys.exit, args=(3,)).start()\nprint('main')\n",
    ),
    script(
        "order of exit hooks",
        """
        import atexit
        for n in range(3):
            atexit.register(print, n)
        @atexit.register
        def last():
            print("first")
            atexit.register(print, "registered late")
        print("end of main")
        """,
    ),
    script(
        "exit hooks after an exception",
        "import atexit\natexit.register(print, 'bye')\n1/0\n",
        exit_code=1,
    ),
    script(
        "exit hooks after exit",
        "import atexit, sys\natexit.register(print, 'bye')\nsys.exit(3)\n",
        exit_code=3,
    ),
    script(
        "exit hook that fails",
        "import atexit\natexit.register(print, 'x')\natexit.register(lambda: 1/0)\n",
    ),
    script("exit hook that exits", "import atexit, sys\natexit.register(sys.exit, 5)\n"),
    script(
        "exit hook that is alone",
        "import atexit, traceback, sys\ndef f():\n    traceback.print_stack()\n    print(sys._getframe().f_back)\natexit.register(f)\n",
    ),
    script("number of exit hooks", "import atexit; print(atexit._ncallbacks())"),
    script(
        "finaliser of a global",
        "class A:\n    def __del__(self): print('gone', __name__)\na = A()\nprint('end')\n",
    ),
    script(
        "finaliser after an exception",
        "class A:\n    def __del__(self): print('gone')\na = A()\n1/0\n",
        exit_code=1,
    ),
    script(
        "finaliser after exit",
        "import sys\nclass A:\n    def __del__(self): print('gone')\na = A()\nsys.exit(2)\n",
        exit_code=2,
    ),
    script(
        "finaliser without the collector",
        "class A:\n    __slots__ = ()\n    def __del__(self): print('gone')\na = A()\n",
    ),
    script(
        "finaliser in a container",
        "class A:\n    __slots__ = ()\n    def __del__(self): print('gone')\na = {'x': (A(),)}\n",
    ),
    script(
        "finaliser in a cycle",
        "class A:\n    def __del__(self): print('gone')\na = A()\na.me = a\ndel a\nprint('end')\n",
    ),
    script(
        "finaliser in a frozen cycle",
        "import gc\nclass A:\n    def __del__(self): print('gone')\na = A()\na.me = a\ngc.freeze()\nprint('end')\n",
    ),
    script(
        "finaliser in a module",
        "import other\nprint('end')\n",
        files={"other.py": "class A:\n    def __del__(self): print('gone', __name__)\na = A()\n"},
    ),
    script(
        "finaliser kept by the standard library",
        "import os, sys\nclass A:\n    def __init__(s, n): s.n = n\n    def __del__(s): print('gone', s.n)\nos.mine = A(1)\nsys.mine = A(2)\nimport builtins\nbuiltins.mine = A(3)\nos.environ.mine = A(4)\nsys.path_importer_cache['x'] = A(5)\n",
    ),
    script(
        "finaliser that imports",
        "class A:\n    def __del__(self):\n        import json\n        print(json)\na = A()\n",
    ),
    script(
        "finaliser that uses a module",
        "import os, json\nclass A:\n    def __del__(self):\n        print(os.getcwd(), json.dumps([1]), open is not None)\na = A()\n",
    ),
    script(
        "finalisers in order",
        "class A:\n    def __init__(s, n): s.n = n\n    def __del__(s): print(s.n)\nb = A('b')\n_a = A('_a')\nc = A('c')\n__d__ = A('__d__')\n_e = A('_e')\n",
    ),
    script(
        "generator left open",
        "def g():\n    try:\n        yield 1\n    finally:\n        print('closed')\nx = g()\nnext(x)\nprint('end')\n",
    ),
    script(
        "context left open",
        "import contextlib\n@contextlib.contextmanager\ndef c():\n    try:\n        yield\n    finally:\n        print('left')\nx = c()\nx.__enter__()\n",
    ),
    script(
        "weak reference's callback",
        "import weakref\nclass A: pass\na = A()\nr = weakref.ref(a, lambda _: print('gone'))\n",
    ),
    script(
        "weak finalizer",
        "import weakref\nclass A: pass\na = A()\nweakref.finalize(a, print, 'final')\nprint('end')\n",
    ),
    script(
        "file not closed",
        "f = open('x', 'w')\nf.write('kept')\nimport subprocess\nprint(open('x').read())\nimport atexit\n",
    ),
    script(
        "file not closed, read by another",
        "import os\nif os.fork() == 0:\n    f = open('x', 'w')\n    f.write('kept')\nelse:\n    os.wait()\n    print(open('x').read())\n",
    ),
    script(
        "metaclass that watches",
        "class M(type):\n    def __getattribute__(c, n):\n        print('asked', n)\n        return super().__getattribute__(n)\nclass A(metaclass=M): pass\na = A()\nprint('end')\n",
    ),
    script(
        "class that lies",
        "class A:\n    @property\n    def __class__(self):\n        print('asked')\n        return int\na = A()\nprint('end')\n",
    ),
    script("stdout replaced", "import sys, io\nsys.stdout = io.StringIO()\nprint('lost')\n"),
    script(
        "stdout replaced by another",
        "import sys\nclass W:\n    def write(s, t): return sys.__stdout__.write(t.upper())\n    def flush(s): sys.__stdout__.write('flushed\\n')\nsys.stdout = W()\nprint('loud')\n",
    ),
    script(
        "stdout wrapped anew",
        "import sys, io\nsys.stdout = io.TextIOWrapper(sys.stdout.buffer, encoding='utf-16')\nprint('x')\n",
    ),
    script(
        "stdout detached", "import sys\nb = sys.stdout.detach()\nb.write(b'raw')\n", exit_code=120
    ),
    script("stdout closed", "import sys\nprint('kept')\nsys.stdout.close()\n"),
    script("stdout's descriptor closed", "import os\nprint('lost')\nos.close(1)\n", exit_code=120),
    script(
        "stdout is full",
        "import os\nf = os.open('/dev/full', os.O_WRONLY)\nos.dup2(f, 1)\nprint('lost')\n",
        exit_code=120,
    ),
    script(
        "stdout is full after exit",
        "import os, sys\nf = os.open('/dev/full', os.O_WRONLY)\nos.dup2(f, 1)\nprint('lost')\nsys.exit(3)\n",
        exit_code=120,
    ),
    script("stderr's descriptor closed", "import os\nos.close(2)\n1/0\n", exit_code=120),
    script("stdout is None", "import sys\nsys.stdout = None\nprint('lost')\n"),
    script("no stdout at all", "import sys\ndel sys.stdout\n"),
    script("C's own output", "import ctypes\nctypes.CDLL(None).puts(b'from C')\n"),
    script(
        "C's own exit hooks",
        "import ctypes\nlibc = ctypes.CDLL(None)\nlibc.printf(b'no newline')\nprint('python')\n",
    ),
    script(
        "thread that outlives main",
        "import threading, time\ndef f():\n    time.sleep(0.2)\n    print('thread')\nthreading.Thread(target=f).start()\nprint('main')\n",
    ),
    script(
        "thread that outlives main after an exception",
        "import threading, time\ndef f():\n    time.sleep(0.2)\n    print('thread')\nthreading.Thread(target=f).start()\n1/0\n",
        exit_code=1,
    ),
    script(
        "daemon thread",
        "import threading, time\ndef f():\n    time.sleep(60)\n    print('never')\nthreading.Thread(target=f, daemon=True).start()\nprint('main')\n",
    ),
    script(
        "bare thread",
        "import _thread, time\n_thread.start_new_thread(time.sleep, (60,))\nprint('main')\n",
    ),
    script(
        "thread that fails",
        "import threading\nt = threading.Thread(target=lambda: 1/0, name='T')\nt.start()\nt.join()\nprint('main')\n",
    ),
    script("timer", "import threading\nthreading.Timer(0.1, print, ['timer']).start()\n"),
    script(
        "executor",
        "from concurrent.futures import ThreadPoolExecutor\ne = ThreadPoolExecutor(2)\nf = e.submit(print, 'in pool')\nprint(list(e.map(abs, [-1])))\n",
    ),
    script(
        "main thread",
        "import threading, os\nt = threading.main_thread()\nprint(t.name, t is threading.current_thread(), threading.enumerate() == [t], threading.active_count(), t.native_id == os.getpid(), t.daemon, threading.get_native_id() == os.getpid())\n",
    ),
    script(
        "thread ends main's hooks",
        "import threading, atexit, time\natexit.register(print, 'hook')\nthreading.Thread(target=lambda: (time.sleep(0.1), print('t'))).start()\n",
    ),
    script(
        "threading's end replaced",
        "import threading\nthreading._shutdown = lambda: print('mine')\n",
    ),
    script("modules replaced", "import sys\nsys.modules = {}\nprint('end')\n"),
    script("modules emptied", "import sys\nsys.modules.clear()\nprint('end')\n"),
    script(
        "modules odd", "import sys\nsys.modules['x'] = 3\nsys.modules[4] = None\nprint('end')\n"
    ),
    script("recursion limit left low", "import sys\nsys.setrecursionlimit(10)\nprint('end')\n"),
    script(
        "inspect asked for by the environment",
        "import os\nos.environ['PYTHONINSPECT'] = '1'\nprint('end')\n",
        stdin=b"print('typed')\n",
    ),
)
