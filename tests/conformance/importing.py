"""Imports: beside the script, above the standard library, and what they leave."""

from __future__ import annotations

from tests.conformance.case import Case, code, script

_STANDARD = ("json", "random", "re", "threading", "ctypes", "os", "site", "struct", "warm", "types")


def _shadow(name: str) -> Case:
    return script(
        f"own {name}",
        f"""
        import sys
        import {name}
        print(sys.modules["{name}"].__file__, getattr({name}, "mine", "the standard library's"))
        """,
        files={f"{name}.py": "mine = 'mine'"},
    )


CASES: tuple[Case, ...] = (
    *(_shadow(name) for name in _STANDARD),
    script(
        "own json under another module",
        "import logging.config, json; print(json.__file__, json.mine)",
        files={"json.py": "mine = True", "socketserver.py": ""},
        exit_code=1,
    ),
    script(
        "own enum breaks re",
        "import re",
        files={"enum.py": "raise RuntimeError('mine')"},
        exit_code=1,
    ),
    script(
        "neighbour",
        "import other; print(other.x, other.__file__, other.__cached__, other.__spec__)",
        files={"other.py": "x = 1"},
    ),
    script(
        "package",
        "import pack.sub; from pack import y; print(pack, pack.sub.z, y, pack.__path__)",
        files={
            "pack/__init__.py": "from .sub import z as y",
            "pack/sub.py": "from . import third\nz = third.three",
            "pack/third.py": "three = 3",
        },
    ),
    script(
        "namespace package",
        "import space.inside; print(space.__path__, space.inside.x)",
        files={"space/inside.py": "x = 1"},
    ),
    script("relative import in a script", "from . import other", exit_code=1),
    script("missing module", "import missing_module", exit_code=1),
    script("missing name", "from os import missing_name", exit_code=1),
    script("module that fails", "import bad", files={"bad.py": "x = 1\n1/0\n"}, exit_code=1),
    script("module that does not parse", "import bad", files={"bad.py": "x = \n"}, exit_code=1),
    script(
        "circular import",
        "import a",
        files={"a.py": "from b import x\ny = 1", "b.py": "from a import y\nx = 1"},
        exit_code=1,
    ),
    script(
        "cached bytecode",
        """
        import os, other, pack
        for folder, _, files in sorted(os.walk(".")):
            print(folder, sorted(files))
        """,
        files={"other.py": "", "pack/__init__.py": ""},
    ),
    script(
        "no cached bytecode",
        "import other, os, sys; print(os.path.exists('__pycache__'), sys.dont_write_bytecode)",
        files={"other.py": ""},
        env={"PYTHONDONTWRITEBYTECODE": "1"},
    ),
    script(
        "reload",
        """
        import importlib, other
        open("other.py", "a").write("x = 'longer than before'\\n")
        print(importlib.reload(other).x)
        """,
        files={"other.py": "x = 1\n"},
    ),
    script(
        "module written at run time",
        """
        import importlib
        open("late.py", "w").write("x = 5")
        importlib.invalidate_caches()
        import late
        print(late.x)
        """,
    ),
    script(
        "path changed at run time",
        """
        import sys
        sys.path.insert(0, "lib")
        import string, inner
        print(string.__file__, inner.x)
        """,
        files={"lib/string.py": "x = 1", "lib/inner.py": "from string import x"},
    ),
    script("submodule not imported", "import concurrent; concurrent.futures", exit_code=1),
    script("submodule not imported of xml", "import xml; xml.etree", exit_code=1),
    script("submodule not imported of os", "import os; print(os.path, os.sys)"),
    script("importlib.util", "import importlib; print(hasattr(importlib, 'util'))"),
    script(
        "what an import brings",
        "import sys; b = set(sys.modules); import json; print(sorted(set(sys.modules) - b))",
    ),
    script(
        "what many imports bring",
        """
        import sys
        before = set(sys.modules)
        import argparse, subprocess, tempfile, collections, dataclasses, socket, logging
        print(sorted(set(sys.modules) - before))
        """,
    ),
    script("runpy path", "import runpy; print(runpy.run_path('x.py'))", files={"x.py": "y = 1"}),
    script(
        "runpy module",
        "import runpy, sys; runpy.run_module('x', run_name='__main__', alter_sys=True)",
        files={"x.py": "import sys; print(__name__, __file__, sys.argv)"},
    ),
    script(
        "pickle of a class of main",
        """
        import pickle
        class Point:
            def __init__(self, x): self.x = x
        data = pickle.dumps(Point(3))
        print(data, pickle.loads(data).x, Point.__module__, Point.__qualname__)
        """,
    ),
    code("pickle from -c", "import pickle\nclass A: pass\nprint(pickle.dumps(A))"),
    script(
        "source of a function",
        """
        import inspect
        def f(x):
            return x + 1
        class A:
            y = 1
        print(inspect.getsource(f), inspect.getsource(A), inspect.getfile(f))
        print(inspect.getmodule(f), inspect.getsourcefile(A))
        """,
    ),
    script(
        "stack from the top",
        """
        import inspect, sys, traceback
        traceback.print_stack()
        print(len(inspect.stack()), sys._getframe().f_back, sys._getframe(0).f_code.co_name)
        try:
            sys._getframe(1)
        except ValueError as error:
            print(error)
        def f():
            traceback.print_stack()
            print([frame.function for frame in inspect.stack()])
        f()
        """,
    ),
    code(
        "stack from the top of -c",
        "import traceback, sys; traceback.print_stack(); sys._getframe(1)",
        exit_code=1,
    ),
    script("linecache", "import linecache; print(repr(linecache.getline(__file__, 1)))"),
    script(
        "search path from the environment",
        "import sys, apart; print(sys.path, apart.__file__)",
        files={"extra/apart.py": ""},
        env={"PYTHONPATH": "extra:other::extra"},
    ),
    script(
        "search path from the environment, absolute",
        "import sys; print(sys.path)",
        env={"PYTHONPATH": "/usr/share:/usr/lib"},
    ),
    script(
        "sitecustomize in the search path",
        "print('main')",
        files={"extra/sitecustomize.py": "print('custom')"},
        env={"PYTHONPATH": "extra"},
    ),
    script(
        "sitecustomize and usercustomize beside the script",
        "import sitecustomize; print(sitecustomize.__file__)",
        files={"sitecustomize.py": "print('never')", "usercustomize.py": "print('never')"},
    ),
    script("this", "import this", heavy=True),
    script(
        "future",
        "from __future__ import annotations\nx: y = 1\nprint(__annotations__)\nprint(annotations)",
    ),
    script("module attribute is main's", "import sys; print(sys.modules['__main__'].__spec__)"),
)
