"""Programs that fail: tracebacks, warnings, hooks."""

# Short programs stand on one line each.
# ruff: noqa: E501

from __future__ import annotations

from tests.conformance.case import Case, code, script

_DEEP = """
    def f(n):
        return f(n + 1)
    f(0)
"""

CASES: tuple[Case, ...] = (
    script("uncaught", "x = 1\nraise ValueError('no')\n", exit_code=1),
    code("uncaught in -c", "x = 1\nraise ValueError('no')\n", exit_code=1),
    script("uncaught with carets", "a = {}\nprint(1 + a['x']['y'] + 2)\n", exit_code=1),
    script(
        "uncaught in functions",
        """
        def f(x):
            return g(x)
        def g(x):
            return [1 / y for y in x]
        class A:
            def m(self):
                return f([1, 0])
        A().m()
        """,
        exit_code=1,
    ),
    script(
        "chained",
        """
        try:
            {}["a"]
        except KeyError as error:
            try:
                raise TypeError("second") from error
            except TypeError:
                raise OSError(2, "third", "name")
        """,
        exit_code=1,
    ),
    script(
        "group",
        """
        def f():
            raise ExceptionGroup("several", [ValueError(1), ExceptionGroup("in", [TypeError(2)])])
        f()
        """,
        exit_code=1,
    ),
    script("with notes", "e = ValueError('x')\ne.add_note('a note')\nraise e\n", exit_code=1),
    script("string that cannot be shown", "raise ValueError('\\udc80 \\u20ac \\0')", exit_code=1),
    script(
        "exception that cannot be shown",
        """
        class E(Exception):
            def __str__(self): raise RuntimeError
        raise E
        """,
        exit_code=1,
    ),
    script("suggestion", "import os\nos.pathh\n", exit_code=1),
    script("suggestion of a name", "value = 1\nprint(valeu)\n", exit_code=1),
    script("suggestion of a module", "print(json.dumps(1))", exit_code=1),
    script("syntax error", "x = 1\nif x = 2:\n    pass\n", exit_code=1),
    code("syntax error in -c", "print(1\n", exit_code=1),
    script("indentation error", "def f():\nreturn 1\n", exit_code=1),
    script("tab error", "if 1:\n        x = 1\n\tx = 2\n", exit_code=1),
    script("unfinished string", "x = '''abc\n", exit_code=1),
    script("bytes that are no UTF-8", b"# fine\nprint('\xff')\n", exit_code=1),
    script("unknown coding", "# coding: nonsense\nprint(1)\n", exit_code=1),
    script("null byte", b"print(1)\n\0print(2)\n", exit_code=None),
    script("too deeply nested", "x = " + "(" * 300 + ")" * 300, exit_code=1),
    script("return outside", "return 1\n", exit_code=1),
    script("warning by the compiler", "x = 1\nprint(x is 1)\nassert (x, 'm')\n"),
    script("escape warning", "print('\\d')\n"),
    script("recursion", _DEEP, exit_code=1),
    code("recursion in -c", _DEEP, exit_code=1),
    script(
        "depth of the recursion",
        """
        import sys
        def f(n):
            try:
                return f(n + 1)
            except RecursionError:
                return n
        print(sys.getrecursionlimit(), f(0))
        sys.setrecursionlimit(400)
        print(f(0))
        """,
    ),
    script(
        "depth of recursion through C",
        """
        def f(n):
            global deepest
            deepest = n
            list(map(f, [n + 1]))
        try:
            f(0)
        except RecursionError as error:
            print(error, deepest)
        """,
    ),
    script("memory error", "x = 'x' * (1 << 60)\n", exit_code=1),
    script("integer too long to print", "print(10 ** 5000)", exit_code=1),
    script(
        "own excepthook",
        """
        import sys
        def hook(kind, value, trace):
            print("hook", kind, value, trace.tb_lineno, trace.tb_frame.f_back, trace.tb_next)
        sys.excepthook = hook
        1 / 0
        """,
        exit_code=1,
    ),
    script(
        "excepthook that fails",
        """
        import sys
        def hook(*words):
            raise TypeError("in hook")
        sys.excepthook = hook
        1 / 0
        """,
        exit_code=1,
    ),
    script("no excepthook", "import sys\ndel sys.excepthook\n1/0\n", exit_code=1),
    script(
        "exit in excepthook",
        "import sys\nsys.excepthook = lambda *w: sys.exit(9)\n1/0\n",
        exit_code=9,
    ),
    script("no stderr", "import sys\nsys.stderr = None\n1/0\n", exit_code=1),
    script(
        "traceback limit", "import sys\nsys.tracebacklimit = 0\ndef f(): 1/0\nf()\n", exit_code=1
    ),
    script(
        "last exception at exit",
        """
        import atexit, sys
        print(hasattr(sys, "last_value"))
        def last():
            print(sys.last_type, sys.last_value, sys.last_traceback.tb_lineno)
            print(sys.last_traceback.tb_frame.f_back, sys.exc_info())
        atexit.register(last)
        1 / 0
        """,
        exit_code=1,
    ),
    script(
        "hooks as they are",
        """
        import sys
        print(sys.excepthook is sys.__excepthook__, sys.displayhook is sys.__displayhook__)
        print(sys.unraisablehook is sys.__unraisablehook__, sys.breakpointhook, sys.gettrace())
        print(sys.getprofile(), sys.exc_info(), sys.get_asyncgen_hooks())
        print(hasattr(sys, "last_type"), hasattr(sys, "ps1"), sys.excepthook)
        """,
    ),
    script("warning", "import warnings\nwarnings.warn('careful')\nprint(1)\n"),
    script("warning one level up", "import warnings\nwarnings.warn('up', stacklevel=2)\n"),
    script("warning two levels up", "import warnings\nwarnings.warn('up', stacklevel=3)\n"),
    script(
        "warning in a function",
        """
        import warnings
        def f():
            warnings.warn("old", DeprecationWarning, stacklevel=2)
        for _ in range(3):
            f()
        f()
        """,
    ),
    script(
        "warning in a module",
        "import other\nother.f()\n",
        files={
            "other.py": "import warnings\ndef f():\n    warnings.warn('d', DeprecationWarning)\n    warnings.warn('u')\n"
        },
    ),
    script("warnings' filters", "import warnings; print(warnings.filters, warnings.onceregistry)"),
    script(
        "warning made an error",
        "import warnings\nwarnings.simplefilter('error')\nwarnings.warn('x')\n",
        exit_code=1,
    ),
    script(
        "resource warning",
        "import warnings\nwarnings.simplefilter('always')\nopen('main.py')\nprint('end')\n",
    ),
    script(
        "resource warning at the end",
        "import warnings\nwarnings.simplefilter('always')\nf = open('main.py')\n",
    ),
    script("coroutine never awaited", "async def f(): pass\nf()\nprint('end')\n"),
    script("unraisable", "class A:\n    def __del__(self): 1/0\nA()\nprint('end')\n"),
    script("assertion", "assert 1 == 2, 'never'\n", exit_code=1),
    script(
        "pdb's view",
        "import traceback\ntry:\n    1/0\nexcept Exception:\n    traceback.print_exc()\n    print(traceback.format_exc())\n",
    ),
    script(
        "logging",
        "import logging\nlogging.warning('w')\nlogging.info('i')\nlogging.exception('e', stack_info=True)\n",
    ),
    script(
        "logging to a file",
        "import logging\nlogging.basicConfig(filename='l')\nlogging.error('x', stack_info=True)\nprint(open('l').read())\n",
    ),
    script(
        "faulthandler",
        "import faulthandler\nprint(faulthandler.is_enabled())\nfaulthandler.dump_traceback()\n",
    ),
    script(
        "faulthandler at a crash",
        "import faulthandler, os\nfaulthandler.enable()\nos.abort()\n",
        exit_code=134,
    ),
    script(
        "tracemalloc",
        "import tracemalloc; print(tracemalloc.is_tracing(), tracemalloc.get_traceback_limit())",
    ),
)
