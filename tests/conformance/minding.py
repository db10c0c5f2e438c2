"""The state that a program finds: environment, time, randomness, collector, limits."""

# Short programs stand on one line each.
# ruff: noqa: E501

from __future__ import annotations

from tests.conformance.case import Case, script

_PYTHON_VARIABLES: tuple[tuple[str, str, str], ...] = (
    ("PYTHONHASHSEED", "0", "print(hash('abc'), hash(b'abc'), {'a', 'b', 'c'})"),
    ("PYTHONOPTIMIZE", "2", "import sys; print(sys.flags.optimize, __debug__); assert False"),
    (
        "PYTHONWARNINGS",
        "error",
        "import sys, warnings; print(sys.warnoptions); warnings.simplefilter",
    ),
    ("PYTHONDONTWRITEBYTECODE", "1", "import sys; print(sys.flags, sys.dont_write_bytecode)"),
    ("PYTHONSAFEPATH", "1", "import sys; print(sys.path, sys.flags)"),
    ("PYTHONUTF8", "1", "import sys; print(sys.flags, sys.stdout.errors)"),
    ("PYTHONDEVMODE", "1", "import sys; print(sys.flags, sys.warnoptions)"),
    ("PYTHONFAULTHANDLER", "1", "import faulthandler; print(faulthandler.is_enabled())"),
    ("PYTHONTRACEMALLOC", "3", "import tracemalloc; print(tracemalloc.is_tracing())"),
    ("PYTHONNOUSERSITE", "1", "import site, sys; print(site.ENABLE_USER_SITE, sys.flags)"),
    ("PYTHONPYCACHEPREFIX", "/tmp/x", "import sys; print(sys.pycache_prefix)"),
    ("PYTHONINTMAXSTRDIGITS", "0", "print(len(str(10 ** 5000)))"),
    ("PYTHONBREAKPOINT", "0", "breakpoint(); print('on')"),
    ("PYTHONVERBOSE", "", "print('quiet')"),
    ("PYTHONHOME", "/nowhere", "print('never')"),
)

CASES: tuple[Case, ...] = (
    *(
        script(
            f"variable {name}",
            source,
            env={name: value},
            exit_code=1 if name == "PYTHONHOME" else 0,
        )
        for name, value, source in _PYTHON_VARIABLES
    ),
    script(
        "environment",
        "import os\nprint(list(os.environ.items()))\nprint(os.environb[b'A'], os.getenv('NONE'))\n",
        env={"A": "b", "EMPTY": "", "U": "ä"},
    ),
    script(
        "environment of C",
        "import ctypes\ng = ctypes.CDLL(None).getenv\ng.restype = ctypes.c_char_p\nprint([g(n) for n in (b'A', b'PATH', b'HOME', b'LANG', b'LD_BIND_NOW', b'PYTHONPATH')])\n",
        env={"A": "b"},
    ),
    script(
        "environment changed",
        "import os, subprocess\nos.environ['NEW'] = '1'\ndel os.environ['A']\nos.unsetenv('HOME')\nsubprocess.run(['env'])\nos.system('env | sort')\n",
        env={"A": "b"},
    ),
    script(
        "environment without HOME",
        "import os, site; print(os.path.expanduser('~'), site.USER_SITE)",
        env={"HOME": ""},
    ),
    script(
        "another HOME",
        "import os, site; print(os.path.expanduser('~/x'), site.USER_BASE, site.getuserbase())",
        env={"HOME": "/tmp/here"},
    ),
    script(
        "another PATH",
        "import sys, shutil; print(sys.executable, shutil.which('sh'))",
        env={"PATH": "/bin:/usr/bin:/nowhere"},
    ),
    script(
        "loader variable",
        "import os; print(os.environ['LD_LIBRARY_PATH'])",
        env={"LD_LIBRARY_PATH": "/usr/lib"},
    ),
    script(
        "time zone",
        "import time\nprint(time.tzname, time.timezone, time.daylight, time.localtime(0), time.strftime('%Z', time.localtime(1e9)))\n",
        env={"TZ": "America/New_York"},
    ),
    script(
        "time zone by rule",
        "import time, datetime\nprint(time.tzname, time.altzone, datetime.datetime.fromtimestamp(0))\n",
        env={"TZ": "AAA3BBB,M3.2.0,M11.1.0"},
    ),
    script("no time zone", "import time; print(time.tzname, time.timezone, time.localtime(0))"),
    script(
        "zoneinfo",
        "import zoneinfo, datetime\nprint(datetime.datetime(2020, 7, 1, tzinfo=zoneinfo.ZoneInfo('Europe/Berlin')).isoformat())\n",
    ),
    script(
        "clocks",
        "import time\nprint(0 < time.process_time() < 5, 0 < time.thread_time() < 5, time.monotonic() > 0, time.perf_counter() > 0)\n",
    ),
    script(
        "usage",
        "import resource, os\nu = resource.getrusage(resource.RUSAGE_SELF)\nc = resource.getrusage(resource.RUSAGE_CHILDREN)\nprint(u.ru_maxrss > 4000, u.ru_utime < 5, c.ru_utime, c.ru_maxrss, os.times()[2:4])\n",
    ),
    script(
        "limits",
        "import resource\nfor n in ('CPU', 'FSIZE', 'NOFILE', 'STACK', 'DATA', 'AS', 'CORE'):\n    print(n, resource.getrlimit(getattr(resource, 'RLIMIT_' + n)))\n",
    ),
    script(
        "folders and umask",
        "import os\nprint(os.getcwd(), oct(os.umask(0o22)), sorted(os.listdir()), os.getpriority(0, 0), sorted(os.sched_getaffinity(0)))\n",
    ),
    script(
        "mode of new files",
        "import os\nopen('x', 'w').close()\nos.mkdir('y')\nprint(oct(os.stat('x').st_mode), oct(os.stat('y').st_mode))\n",
    ),
    script(
        "collector",
        "import gc\nprint(gc.isenabled(), gc.get_threshold(), gc.get_debug(), gc.garbage, gc.callbacks)\nprint(gc.get_count()[0] < 700)\nprint(gc.collect() >= 0, gc.isenabled())\n",
    ),
    script(
        "nothing foreign in the collector",
        "import gc, types\nprint([m.__name__ for m in gc.get_objects() if type(m) is types.ModuleType and m.__name__.split('.')[-1] in ('warm', 'ctypes', 'main')])\nprint([f for f in gc.get_objects() if type(f) is types.FrameType and f.f_code.co_filename != __file__])\n",
    ),
    script(
        "interpreter settings",
        "import sys\nprint(sys.getrecursionlimit(), sys.getswitchinterval(), sys.getdlopenflags(), sys.int_info, sys.get_int_max_str_digits(), sys.float_repr_style, sys.hash_info, sys.thread_info, sys.is_finalizing())\n",
    ),
    script(
        "threads that are known",
        "import sys, threading\nprint(len(sys._current_frames()), [t.name for t in threading.enumerate()], threading._active.keys() == {threading.get_ident()})\n",
    ),
    script(
        "decimal context", "import decimal; print(decimal.getcontext(), decimal.Decimal(1) / 3)"
    ),
    script(
        "context variables", "import contextvars; print(list(contextvars.copy_context().items()))"
    ),
    script(
        "registered codecs",
        "import codecs\nprint(codecs.lookup('latin-1').name, 'x'.encode('idna'), 'ä'.encode('utf-16'))\n",
    ),
    script(
        "seeded random",
        "import random; random.seed(1); print(random.random(), random.sample(range(99), 5))",
    ),
    script(
        "interned and identical",
        "import sys\nprint(sys.intern('abc') is 'abc'[:], 256 is int('256'), () is tuple([]))\n",
    ),
    script(
        "audit hooks",
        "import sys\ndef h(e, a):\n    if e in ('open', 'exec', 'compile', 'import') and 'x.py' in str(a): print(e)\nsys.addaudithook(h)\nexec(compile('1', 'x.py', 'exec'))\n",
    ),
    script(
        "tracing from the start",
        "import sys\nprint(sys.gettrace(), sys.getprofile())\nsys.settrace(lambda f, e, a: print(e, f.f_lineno, f.f_back is None or f.f_back.f_back))\ndef f(): return 1\nf()\nsys.settrace(None)\n",
    ),
    script(
        "profile of everything",
        "import cProfile, io, pstats\np = cProfile.Profile()\np.runcall(sum, range(10))\nprint([k for k in p.getstats() if 'sum' in str(k.code)][0].callcount)\n",
    ),
)
