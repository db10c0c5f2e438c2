"""How a program is started and what it finds: arguments, __main__, flags, paths."""

# Short programs stand on one line each.
# ruff: noqa: E501

from __future__ import annotations

from tests.conformance.case import Case, code, script

_MAIN = """
    import sys
    print({k: v for k, v in sorted(globals().items()) if k not in ("__loader__", "sys")})
    print(type(__loader__), getattr(__loader__, "name", None), getattr(__loader__, "path", None))
    print(sys.modules["__main__"].__dict__ is globals(), list(globals()))
"""
_ZIP = """
    import zipfile
    with zipfile.ZipFile("app.zip", "w") as file:
        file.writestr("__main__.py", "import sys; print(sys.argv, __file__, sys.path[0])")
    import subprocess
    print(subprocess.run(["python3", "app.zip", "a"], capture_output=True))
"""

CASES: tuple[Case, ...] = (
    script("argv", "import sys; print(sys.argv)", "a", "", "-b", "--c=d", "ä ö", "-c", "x"),
    script("orig argv", "import sys; print(sys.orig_argv)", "a", "-v", exit_code=None),
    code("argv of -c", "import sys; print(sys.argv)", "a", "-c", "b"),
    code("argv of -c without arguments", "import sys; print(sys.argv)"),
    script("search path", "import sys; print(sys.path)"),
    code("search path of -c", "import sys; print(sys.path)"),
    script("search path in a folder", "import sys; print(sys.path)", at="a/b/main.py"),
    script("flags", "import sys; print(sys.flags, sys.dont_write_bytecode, sys.warnoptions)"),
    script("unbuffered flag", "import sys; print(sys.flags)", argv=("-u", "main.py")),
    script("options", "import sys; print(sys._xoptions, sys.pycache_prefix, sys.platlibdir)"),
    script(
        "executable and prefixes",
        """
        import sys
        print(sys.executable, sys._base_executable, sys.prefix, sys.exec_prefix)
        print(sys.base_prefix, sys.version, sys.implementation, sys.byteorder, sys.platform)
        """,
    ),
    script(
        "site",
        """
        import site, sys
        print(site.USER_BASE, site.USER_SITE, site.ENABLE_USER_SITE, site.PREFIXES)
        print(site.getsitepackages(), exit, quit, copyright, license, help)
        """,
    ),
    script("sysconfig", "import sysconfig; print(sysconfig.get_paths())"),
    script("modules there from the start", "import sys; print(list(sys.modules))"),
    code("modules there from the start of -c", "import sys; print(list(sys.modules))"),
    script(
        "the import system",
        """
        import sys
        print(sys.meta_path, sys.path_hooks)
        print(list(sys.path_importer_cache.items()))
        """,
    ),
    script("main", _MAIN),
    code("main of -c", _MAIN),
    script("main in a folder", _MAIN, at="a/b.py"),
    script(
        "main imports itself",
        """
        import __main__
        print(__main__.__file__, __main__.__name__, __main__ is __import__("sys").modules["__main__"])
        value = 3
        print(__main__.value, repr(__main__))
        """,
    ),
    script("main guard", "print(__name__)\nif __name__ == '__main__':\n    print('guarded')\n"),
    script("doc", '"""What it is."""\nprint(__doc__)\n'),
    script(
        "annotations",
        """
        x: int = 3
        y: "str"
        print(__annotations__)
        """,
    ),
    script("no annotations", "print(globals().get('__annotations__', 'none'))"),
    script(
        "builtins",
        """
        import builtins
        print(__builtins__ is builtins, sorted(vars(builtins)))
        """,
    ),
    script("globals, locals and vars", "print(globals() is locals(), vars() is locals(), dir())"),
    script("name with spaces", "import sys; print(sys.argv, __file__)", at="a name with.py"),
    script("name beyond ASCII", "import sys; print(sys.argv, __file__)", at="ünï→.py"),
    script("name with a dash", "import sys; print(__file__)", at="-x.py", argv=("./-x.py",)),
    script("name without suffix", "import sys; print(__file__, __loader__)", at="program"),
    script("name roundabout", "print(__file__)", at="a/main.py", argv=("a/../a/./main.py",)),
    script("absolute name", "import sys; print(__file__, sys.path[0])", argv=("./main.py", "a")),
    script(
        "through a link",
        """
        import os, subprocess, sys
        os.mkdir("links")
        os.symlink("../real/tool.py", "links/tool")
        done = subprocess.run(["python3", "links/tool"], capture_output=True)
        print(done.stdout.decode(), done.stderr)
        """,
        files={"real/tool.py": "import sys; print(__file__, sys.path[0])"},
    ),
    script("empty script", ""),
    script("script of one comment", "# nothing"),
    code("empty -c", ""),
    script("missing script", "", argv=("missing.py",), exit_code=2),
    script("missing script in a missing folder", "", argv=("no/such/thing.py", "a"), exit_code=2),
    script("a folder without main", "", at="folder/x.py", argv=("folder",), exit_code=1),
    script(
        "a folder with main",
        "import sys; print(sys.argv, sys.path[0], __file__, __package__, __spec__)",
        at="folder/__main__.py",
        argv=("folder", "a"),
    ),
    script("a zip with main", _ZIP),
    script("module", "import sys; print(sys.argv, __name__)", at="m.py", argv=("-m", "m", "x")),
    script("module that is missing", "", argv=("-m", "missing"), exit_code=1),
    script("no such option", "", argv=("--nonsense",), exit_code=2),
    script("version", "", argv=("-V",)),
    script("option -O", "print(__debug__); assert False", argv=("-O", "main.py")),
    script("option -B", "import sys; print(sys.dont_write_bytecode)", argv=("-B", "main.py")),
    script("option -W", "import warnings; warnings.warn('x')", argv=("-Wignore", "main.py")),
    script("option -X", "import sys; print(sys.flags)", argv=("-X", "dev", "main.py")),
    script("option -I", "import sys; print(sys.flags, sys.path)", argv=("-I", "main.py")),
    script("script from stdin", "", argv=("-", "a"), stdin=b"import sys; print(sys.argv)\n"),
    script("no arguments at all", "", argv=(), stdin=b"print(__name__)\n"),
    script("huge script", "x = 1\n" * 180_000 + "print('end')\n", heavy=True),
    script(
        "compiled script",
        """
        import py_compile, subprocess
        py_compile.compile("other.py", "other.pyc")
        print(subprocess.run(["python3", "other.pyc"], capture_output=True))
        """,
        files={"other.py": "print(__file__, __name__)"},
    ),
    script(
        "deletes itself",
        """
        import os
        os.unlink(__file__)
        print("still here")
        1 / 0
        """,
        exit_code=1,
    ),
    script(
        "changes itself",
        """
        open(__file__, "w").write("something else")
        print("as before")
        1 / 0
        """,
        exit_code=1,
    ),
    script(
        "unreadable script",
        """
        import os, subprocess
        os.chmod("secret.py", 0)
        print(subprocess.run(["python3", "secret.py"], capture_output=True))
        """,
        files={"secret.py": "print(1)"},
        lone=True,
    ),
    script("carriage returns", b"print(1)\r\nif True:\r\n    print('two')\r\n"),
    script("byte order mark", b"\xef\xbb\xbfprint('\xc3\xa4')\n"),
    script("coding cookie", "# -*- coding: latin-1 -*-\nprint('\xe4')\n".encode("latin-1")),
    script("form feeds and tabs", "\x0cif True:\n\tprint('tab')\n"),
    script("no newline at the end", b"print('end')"),
    script("shebang", "#!/usr/bin/env nonsense\nprint('fine')\n"),
)
