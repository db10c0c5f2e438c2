"""Standard streams, buffers, encodings."""

# Short programs stand on one line each.
# ruff: noqa: E501

from __future__ import annotations

from tests.conformance.case import Case, code, script

_LINES = b"one\ntwo\r\nthree\xc3\xa4\nfour"
_STREAMS = """
    import sys, os
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        print(stream, stream is getattr(sys, f"__{name}__"), stream.fileno(), stream.isatty())
        print(stream.name, stream.mode, stream.encoding, stream.errors, stream.newlines)
        print(stream.line_buffering, stream.write_through, stream.closed, stream.readable())
        print(stream.seekable(), stream.writable(), stream.buffer, stream.__dict__)
        raw = getattr(stream.buffer, "raw", None)
        print(raw, raw and (raw.mode, raw.closefd, raw.name, raw.__dict__))
        print(stream._CHUNK_SIZE, getattr(raw, "_blksize", None))
"""
_ORDER = """
    import sys, os
    r, w = os.pipe()
    os.dup2(w, 1)
    os.dup2(w, 2)
    os.close(w)
    print("out 1")
    print("err 1", file=sys.stderr)
    sys.stdout.write("out 2\\n")
    sys.stderr.write("err without newline")
    os.write(1, b"raw\\n")
    print("out 3", flush=True)
    got = os.read(r, 9999)
    os.write(2, b"")
    open("got", "wb").write(got)
    sys.stdout = sys.stderr = None
    os._exit(0 if got == {expected!r} else 1)
"""

CASES: tuple[Case, ...] = (
    script("streams with a pipe", _STREAMS, stdin=b"x"),
    script("streams with nothing", _STREAMS),
    script("streams unbuffered", _STREAMS, env={"PYTHONUNBUFFERED": "1"}),
    script("streams unbuffered by option", _STREAMS, argv=("-u", "main.py"), stdin=b""),
    script("streams not unbuffered", _STREAMS, env={"PYTHONUNBUFFERED": ""}),
    code("streams of -c", _STREAMS),
    script("read all", "import sys; print(repr(sys.stdin.read()))", stdin=_LINES),
    script("read lines", "import sys\nfor line in sys.stdin: print(repr(line))\n", stdin=_LINES),
    script("read bytes", "import sys; print(sys.stdin.buffer.read())", stdin=b"\x00\xff\r\n"),
    script("read bad UTF-8", "import sys; print(ascii(sys.stdin.read()))", stdin=b"\xff\xfe"),
    script("input", "print(repr(input('prompt> ')))\nprint(repr(input()))\n", stdin=_LINES),
    script("input at the end", "input()", stdin=b"", exit_code=1),
    script("input from nothing", "input('? ')", exit_code=1),
    script(
        "read from a child's view",
        "import subprocess, sys\nprint(sys.stdin.readline())\nsubprocess.run(['cat'])\n",
        stdin=b"a\nb\n",
    ),
    script("read through the descriptor", "import os; print(os.read(0, 100))", stdin=b"abc"),
    script("nothing read of much", "print('done')", stdin=b"x" * 300_000),
    script("much is read", "import sys; print(len(sys.stdin.read()))", stdin=b"x" * 300_000),
    script(
        "stdin closed",
        "import sys\nsys.stdin.close()\ntry:\n    input()\nexcept ValueError as e: print(e)\n",
        stdin=b"x\n",
    ),
    script(
        "print to both",
        "import sys\nprint('a')\nprint('b', file=sys.stderr)\nsys.stdout.write('c')\n",
    ),
    script(
        "order of buffered output", _ORDER.format(expected=b"err 1\nraw\nout 1\nout 2\nout 3\n")
    ),
    script(
        "order of unbuffered output",
        _ORDER.format(expected=b"out 1\nerr 1\nout 2\nerr without newlineraw\nout 3\n"),
        env={"PYTHONUNBUFFERED": "1"},
    ),
    script("much output", "for n in range(20000): print('line', n)\n"),
    script("bytes out", "import sys\nsys.stdout.buffer.write(bytes(range(256)))\nprint('text')\n"),
    script("beyond ASCII", "print('ä→😀\\u2028')"),
    script(
        "surrogate out",
        "print('\\udcff')\nimport sys\nprint('\\ud800', file=sys.stderr)\nprint('\\ud800')\n",
        exit_code=1,
    ),
    script("carriage returns out", "print('a\\rb\\r\\nc')"),
    script(
        "reconfigured",
        "import sys\nsys.stdout.reconfigure(encoding='latin-1', line_buffering=True)\nprint('ä')\n",
    ),
    script(
        "encodings",
        "import sys, locale\nprint(sys.getdefaultencoding(), sys.getfilesystemencoding(), sys.getfilesystemencodeerrors(), locale.getpreferredencoding(), locale.getlocale(), locale.setlocale(locale.LC_ALL), locale.localeconv())\n",
    ),
    script(
        "locale C",
        "import sys, locale, os\nprint(sys.stdout.encoding, locale.setlocale(locale.LC_CTYPE), os.environ)\n",
        env={"LC_ALL": "C"},
    ),
    script(
        "locale POSIX",
        "import sys, locale\nprint(sys.stdout.encoding, sys.flags, locale.setlocale(locale.LC_CTYPE))\n",
        env={"LANG": "POSIX"},
    ),
    script(
        "locale that is not there",
        "import locale\nlocale.setlocale(locale.LC_ALL, '')\n",
        env={"LC_ALL": "xx_YY.UTF-8"},
        exit_code=1,
    ),
    script(
        "encoding by the environment",
        "import sys; print(sys.stdout.encoding, sys.stdin.errors)",
        env={"PYTHONIOENCODING": "latin-1:replace"},
    ),
    script(
        "line by line in time",
        "import time\nfor n in range(3):\n    print(n, flush=True)\n    time.sleep(0.05)\n",
    ),
    script(
        "open's defaults",
        "f = open('x', 'w')\nprint(f.encoding, f.errors, f.newlines, f.line_buffering, f.buffer)\n",
    ),
    script(
        "descriptors are not inherited",
        "import os; print([os.get_inheritable(n) for n in range(3)], os.get_blocking(0))",
    ),
)
