"""A little of each battery that is included."""

# Short programs stand on one line each.
# ruff: noqa: E501

from __future__ import annotations

from tests.conformance.case import Case, script

CASES: tuple[Case, ...] = (
    script(
        "sqlite3",
        "import sqlite3\nc = sqlite3.connect('x.db')\nc.execute('create table t (x)')\nc.executemany('insert into t values (?)', [(1,), (2,)])\nc.commit()\nprint(c.execute('select sum(x) from t').fetchall())\n",
    ),
    script(
        "sqlite3 not committed",
        "import sqlite3, os\nif os.fork() == 0:\n    c = sqlite3.connect('x.db', isolation_level=None)\n    c.execute('create table t (x)')\n    c.execute('begin')\n    c.execute('insert into t values (1)')\nelse:\n    os.wait()\n    print(sqlite3.connect('x.db').execute('select count(*) from t').fetchall())\n",
    ),
    script(
        "ssl",
        "import ssl; print(ssl.OPENSSL_VERSION, ssl.create_default_context().verify_mode, ssl.RAND_status())",
    ),
    script(
        "hashlib",
        "import hashlib; print(hashlib.sha256(b'x').hexdigest(), hashlib.blake2b(b'x').hexdigest()[:9])",
    ),
    script(
        "ctypes",
        "import ctypes\nclass P(ctypes.Structure):\n    _fields_ = [('x', ctypes.c_int), ('y', ctypes.c_double)]\nlibc = ctypes.CDLL(None)\nprint(libc.abs(-3), ctypes.sizeof(P), P(1, 2).y, ctypes.pythonapi.Py_IsInitialized())\n@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))\ndef order(a, b): return a[0] - b[0]\nv = (ctypes.c_int * 4)(3, 1, 2, 0)\nlibc.qsort(v, 4, 4, order)\nprint(list(v), ctypes.get_errno(), ctypes.c_void_p.__module__)\n",
    ),
    script(
        "ctypes' prototypes",
        "import ctypes\nprint(ctypes.pythonapi.PyImport_GetImporter.restype, ctypes.pythonapi.PyImport_GetImporter.argtypes, ctypes.CDLL(None).fopen.restype, ctypes._pointer_type_cache)\n",
    ),
    script(
        "struct, array, mmap",
        "import struct, array, mmap\nprint(struct.pack('<iq', 1, 2), array.array('i', [1]), len(mmap.mmap(-1, 99)))\n",
    ),
    script(
        "pickle, copy, json, csv",
        "import pickle, copy, json, csv, io\nprint(pickle.loads(pickle.dumps({1: [2]})), copy.deepcopy([{}]), json.dumps({'a': 1.5}), list(csv.reader(io.StringIO('a,b'))))\n",
    ),
    script(
        "datetime, decimal, fractions",
        "import datetime, decimal, fractions\nprint(datetime.date(2020, 1, 31) + datetime.timedelta(1), decimal.Decimal('0.1') * 3, fractions.Fraction(1, 3))\n",
    ),
    script(
        "re, textwrap, difflib",
        "import re, textwrap, difflib\nprint(re.sub(r'(a)(b)', r'\\2\\1', 'abab'), textwrap.fill('a b c', 3), difflib.get_close_matches('ab', ['abc']))\n",
    ),
    script(
        "collections and dataclasses",
        "import collections, dataclasses, enum, typing\n@dataclasses.dataclass\nclass A:\n    x: int = 1\nT = collections.namedtuple('T', 'a b')\nclass C(enum.Enum): R = 1\nprint(A(), T(1, 2), T.__module__, C.R, collections.Counter('aab'), typing.get_type_hints(A))\n",
    ),
    script(
        "abstract classes",
        "import abc, collections.abc\nclass A(abc.ABC):\n    @abc.abstractmethod\n    def f(self): ...\nprint(isinstance([], collections.abc.Sequence), issubclass(dict, collections.abc.Mapping))\nA()\n",
        exit_code=1,
    ),
    script(
        "argparse",
        "import argparse\np = argparse.ArgumentParser()\np.add_argument('x')\np.parse_args()\n",
        exit_code=2,
    ),
    script(
        "argparse helps",
        "import argparse\np = argparse.ArgumentParser()\np.add_argument('--x')\np.parse_args()\n",
        "--help",
    ),
    script(
        "unittest",
        "import unittest\nclass T(unittest.TestCase):\n    def test_a(self): pass\n    def test_b(self): self.assertEqual(1, 1)\nr = unittest.main(exit=False, verbosity=0, argv=['x', '-q'], testRunner=unittest.TextTestRunner(stream=open('o', 'w'))).result\nprint(r.testsRun)\n",
    ),
    script(
        "doctest",
        "def f():\n    '''\n    >>> f()\n    2\n    '''\n    return 2\nimport doctest\nprint(doctest.testmod())\n",
    ),
    script(
        "tempfile",
        "import tempfile, os\nwith tempfile.NamedTemporaryFile() as f: print(os.path.dirname(f.name))\nd = tempfile.TemporaryDirectory()\nprint(os.path.isdir(d.name))\n",
    ),
    script(
        "shelve and dbm",
        "import shelve, dbm, os\ns = shelve.open('s')\ns['a'] = [1]\nif os.fork():\n    os.wait()\nprint(dict(s))\n",
    ),
    script(
        "dbm not closed",
        "import os\ntry:\n    import dbm.gnu as dbm\nexcept ImportError:\n    import dbm.dumb as dbm\nif os.fork() == 0:\n    d = dbm.open('d', 'n')\n    d['a'] = 'b'\nelse:\n    os.wait()\n    print(dbm.open('d')['a'])\n",
    ),
    script(
        "gzip, zipfile, tarfile",
        "import gzip, zipfile, tarfile, io, zlib, lzma, bz2\nprint(gzip.decompress(gzip.compress(b'x')), zlib.crc32(b'x'), lzma.decompress(lzma.compress(b'y')), bz2.decompress(bz2.compress(b'z')))\nf = gzip.open('g', 'w')\nf.write(b'x')\n",
    ),
    script(
        "sockets",
        "import socket\na, b = socket.socketpair()\na.send(b'x')\nprint(b.recv(9), socket.getdefaulttimeout(), socket.gethostname())\ns = socket.create_server(('127.0.0.1', 0))\nc = socket.create_connection(s.getsockname())\nprint(c.fileno(), s.fileno())\n",
        lone=True,
    ),
    script(
        "select",
        "import select, selectors, os\nr, w = os.pipe()\nos.write(w, b'x')\nprint(select.select([r], [], [], 1)[0] == [r], select.epoll().fileno())\n",
    ),
    script(
        "threads and queues",
        "import threading, queue\nq = queue.Queue()\nts = [threading.Thread(target=q.put, args=(n,)) for n in range(5)]\n[t.start() for t in ts]\n[t.join() for t in ts]\nprint(sorted(q.queue), [t.name for t in ts])\nl = threading.local()\nprint(l.__dict__, threading.stack_size(), threading.settrace(None))\n",
    ),
    script(
        "random differs in a fork",
        "import random, os, uuid\nr, w = os.pipe()\nif os.fork() == 0:\n    os.write(w, repr((random.random(), uuid.uuid4())).encode())\n    os._exit(0)\nos.wait()\nprint(os.read(r, 999).decode() != repr((random.random(), uuid.uuid4())))\n",
    ),
    script(
        "xml, html, email, urllib",
        "import xml.etree.ElementTree as E, html, email.message, urllib.parse\nprint(E.tostring(E.fromstring('<a><b/></a>')), html.escape('<'), urllib.parse.urlsplit('http://a/b?c'))\nm = email.message.EmailMessage()\nm['To'] = 'x'\nprint(m)\n",
    ),
    script(
        "http server and client",
        "import http.server, threading, urllib.request\nclass H(http.server.BaseHTTPRequestHandler):\n    def do_GET(s):\n        s.send_response(200)\n        s.end_headers()\n        s.wfile.write(b'hi')\n    def log_message(s, *a): pass\ns = http.server.HTTPServer(('127.0.0.1', 0), H)\nthreading.Thread(target=s.handle_request).start()\nprint(urllib.request.urlopen(f'http://127.0.0.1:{s.server_port}').read())\n",
        heavy=True,
    ),
    script(
        "time and sched",
        "import sched, time\ns = sched.scheduler()\ns.enter(0.01, 1, print, ('ran',))\ns.run()\n",
    ),
    script(
        "ast, dis, tokenize, inspect",
        "import ast, dis, inspect\nprint(ast.dump(ast.parse('x = 1')), inspect.signature(lambda a, *, b=1: 0))\ndis.dis(compile('x = 1', 'f', 'exec'))\n",
    ),
    script(
        "code and codeop",
        "import code\ni = code.InteractiveInterpreter()\ni.runsource('1/0')\ni.runsource('print(2)')\n",
    ),
    script(
        "pathlib, glob, shutil",
        "import pathlib, glob, shutil\npathlib.Path('a').mkdir()\n(pathlib.Path('a') / 'b').write_text('x')\nprint(glob.glob('**', recursive=True), shutil.copy('a/b', 'c'), pathlib.Path.cwd(), pathlib.Path.home())\n",
    ),
    script(
        "platform and getpass",
        "import platform, getpass, pwd, os\nprint(platform.python_version(), platform.system(), pwd.getpwuid(os.getuid()).pw_name)\n",
    ),
    script(
        "statistics and math",
        "import statistics, math, cmath, itertools, functools, operator\nprint(statistics.mean([1, 2]), math.isqrt(10), cmath.sqrt(-1), functools.reduce(operator.add, itertools.count(1).__reduce__()[1]))\n",
    ),
    script(
        "importlib.metadata and resources",
        "import importlib.metadata, importlib.resources\nprint(len(list(importlib.metadata.distributions())) >= 0, importlib.resources.files('json').joinpath('__init__.py').is_file())\n",
    ),
    script("timeit", "import timeit; print(timeit.timeit('1', number=10) < 1)"),
    script(
        "gettext and locale",
        "import gettext, calendar\nprint(gettext.gettext('x'), calendar.month(2020, 2))\n",
    ),
    script(
        "contextlib and weakref",
        "import contextlib, weakref, io\nwith contextlib.redirect_stdout(io.StringIO()) as f: print('in')\nprint(repr(f.getvalue()))\nclass A: pass\na = A()\nd = weakref.WeakValueDictionary(x=a)\ns = weakref.WeakSet([a])\nprint(len(d), len(s))\n",
    ),
)
