"""Signals, processes, pids."""

# Short programs stand on one line each.
# ruff: noqa: E501

from __future__ import annotations

from tests.conformance.case import Case, code, script

_KILLS = ("TERM", "KILL", "HUP", "USR1", "INT", "QUIT", "ALRM", "SEGV", "ABRT")
_NUMBERS = {
    "TERM": 15,
    "KILL": 9,
    "HUP": 1,
    "USR1": 10,
    "INT": 2,
    "QUIT": 3,
    "ALRM": 14,
    "SEGV": 11,
    "ABRT": 6,
}


def _killed(name: str) -> Case:
    return script(
        f"killed by {name}",
        f"import os, signal\nos.kill(os.getpid(), signal.SIG{name})\nimport time\ntime.sleep(60)\n",
        exit_code=128 + _NUMBERS[name],
    )


CASES: tuple[Case, ...] = (
    *(_killed(name) for name in _KILLS),
    script("KeyboardInterrupt", "raise KeyboardInterrupt\n", exit_code=130),
    code("KeyboardInterrupt in -c", "raise KeyboardInterrupt('x')", exit_code=130),
    script(
        "KeyboardInterrupt with hooks",
        "import atexit\natexit.register(print, 'hook')\nclass A:\n    def __del__(s): print('gone')\na = A()\nraise KeyboardInterrupt\n",
        exit_code=130,
    ),
    script(
        "KeyboardInterrupt caught",
        "try:\n    raise KeyboardInterrupt\nexcept KeyboardInterrupt:\n    print('caught')\n",
    ),
    script(
        "interrupted while asleep",
        "import os, signal, threading, time\nthreading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()\ntime.sleep(30)\n",
        exit_code=130,
    ),
    script(
        "own handlers",
        "import os, signal\nsignal.signal(signal.SIGTERM, lambda n, f: print(n, f.f_lineno, f.f_back))\nos.kill(os.getpid(), signal.SIGTERM)\nprint('on')\n",
    ),
    script(
        "own SIGINT handler",
        "import os, signal\nsignal.signal(signal.SIGINT, lambda n, f: print('int'))\nos.kill(os.getpid(), 2)\nprint('on')\n",
    ),
    script(
        "handler that raises",
        "import os, signal\ndef h(n, f): raise SystemExit(7)\nsignal.signal(signal.SIGUSR1, h)\nos.kill(os.getpid(), signal.SIGUSR1)\nprint('never')\n",
        exit_code=7,
    ),
    script(
        "all handlers",
        "import signal\nfor n in sorted(signal.valid_signals()):\n    print(n, signal.getsignal(n))\nprint(signal.set_wakeup_fd(-1), signal.getitimer(0))\n",
    ),
    script(
        "dispositions",
        "for line in open('/proc/self/status'):\n    if line.startswith(('Sig', 'Shd')) and 'SigQ' not in line: print(line, end='')\n",
    ),
    script(
        "dispositions of a child",
        "import subprocess\nsubprocess.run(['grep', '^Sig[BIC]', '/proc/self/status'])\nsubprocess.run(['grep', '^Sig[BIC]', '/proc/self/status'], restore_signals=False)\n",
    ),
    script("mask", "import signal; print(signal.pthread_sigmask(signal.SIG_BLOCK, []))"),
    script(
        "broken pipe", "import os\nr, w = os.pipe()\nos.close(r)\nos.write(w, b'x')\n", exit_code=1
    ),
    script(
        "broken pipe of a shell",
        "import subprocess\nprint(subprocess.run(['sh', '-c', 'python3 many.py | head -1'], capture_output=True))\n",
        files={"many.py": "for n in range(100000): print(n)\n"},
    ),
    script(
        "alarm",
        "import signal, time\nsignal.signal(signal.SIGALRM, lambda *w: print('ring'))\nsignal.setitimer(signal.ITIMER_REAL, 0.1)\ntime.sleep(0.3)\n",
    ),
    script("no core", "import resource; print(resource.getrlimit(resource.RLIMIT_CORE))"),
    script("abort", "import os; os.abort()", exit_code=134),
    script("crash", "import ctypes\nctypes.string_at(0)\n", exit_code=139),
    script(
        "crash after output", "import ctypes\nprint('lost')\nctypes.string_at(0)\n", exit_code=139
    ),
    script(
        "pid",
        "import os\nprint(os.getpid() == int(os.readlink('/proc/self')), os.getpid() > 1, os.getppid() > 0)\n",
    ),
    script(
        "groups",
        "import os\nprint(os.getpgid(0) == os.getpgrp(), os.getpid() != os.getpgrp(), os.getsid(0) == os.getpgrp())\n",
        lone=True,
    ),
    script(
        "identity",
        "import os\nprint(os.getuid(), os.geteuid(), os.getgid(), os.getgroups(), os.getresuid(), os.uname()[:2])\n",
        lone=True,
    ),
    script(
        "privileges",
        "for line in open('/proc/self/status'):\n    if line.startswith(('Cap', 'NoNew', 'Seccomp:', 'Threads', 'Umask', 'Groups')): print(line, end='')\n",
        lone=True,
    ),
    script(
        "command's name",
        "print(open('/proc/self/comm').read(), __import__('os').readlink('/proc/self/exe'))\n",
    ),
    script(
        "open descriptors",
        "import os\nn = os.listdir('/proc/self/fd')\nprint(sorted(f for f in n if os.path.exists(f'/proc/self/fd/{f}')))\n",
    ),
    script("new descriptor", "import os\nprint(os.open('main.py', 0))\n"),
    script(
        "descriptors of a child",
        "import subprocess\nsubprocess.run(['sh', '-c', 'ls /proc/self/fd | wc -l'], close_fds=False)\n",
    ),
    script(
        "fork",
        "import os, sys\nprint('once', flush=True)\npid = os.fork()\nif not pid:\n    print('child', os.getppid() > 0)\n    sys.exit(3)\nprint(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n",
    ),
    script(
        "fork that falls off the end",
        "import os\nif os.fork():\n    print(os.wait()[1])\nelse:\n    print('child')\n",
    ),
    script(
        "fork that fails",
        "import os\nif os.fork():\n    print(os.waitstatus_to_exitcode(os.wait()[1]))\nelse:\n    1/0\n",
    ),
    script("fork copies the buffer", "import os\nprint('twice')\nif os.fork():\n    os.wait()\n"),
    script("no children", "import os\nos.wait()\n", exit_code=1),
    script(
        "spawn",
        "import os\nprint(os.waitstatus_to_exitcode(os.waitpid(os.posix_spawn('/bin/sh', ['sh', '-c', 'exit 4'], os.environ), 0)[1]))\n",
    ),
    script(
        "exec",
        "import os\nprint('before', flush=True)\nos.execvp('sh', ['sh', '-c', 'echo $0; exit 5'])\n",
        exit_code=5,
    ),
    script("system", "import os\nprint(os.waitstatus_to_exitcode(os.system('exit 3')))\n"),
    script(
        "subprocess",
        "import subprocess, sys\nd = subprocess.run([sys.executable, '-c', 'import sys; print(sys.argv, sys.flags)', 'x'], capture_output=True, text=True)\nprint(d)\nprint(subprocess._args_from_interpreter_flags())\n",
    ),
    script(
        "environment of a child",
        "import subprocess\nsubprocess.run(['env'])\n",
        env={"A": "b", "C": "ä"},
    ),
    script(
        "multiprocessing start methods",
        "import multiprocessing as m; print(m.get_start_method(), m.get_all_start_methods(), m.current_process(), m.parent_process(), m.active_children())",
    ),
    *(
        script(
            f"multiprocessing {method}",
            f"""
            import multiprocessing, os
            def square(x):
                return x * x
            def put(queue):
                queue.put(__name__)
            if __name__ == "__main__":
                context = multiprocessing.get_context("{method}")
                with context.Pool(2) as pool:
                    print(pool.map(square, range(5)))
                queue = context.Queue()
                process = context.Process(target=put, args=(queue,))
                process.start()
                print(queue.get())
                process.join()
                print(process.exitcode)
            """,
            heavy=True,
        )
        for method in ("fork", "spawn", "forkserver")
    ),
    script(
        "shared memory",
        """
        from multiprocessing import shared_memory, Process
        def fill(name):
            memory = shared_memory.SharedMemory(name)
            memory.buf[:3] = b"abc"
            memory.close()
        if __name__ == "__main__":
            memory = shared_memory.SharedMemory(create=True, size=10)
            process = Process(target=fill, args=(memory.name,))
            process.start()
            process.join()
            print(bytes(memory.buf[:3]))
            memory.close()
            memory.unlink()
        """,
        heavy=True,
    ),
    script(
        "shared memory left behind",
        "from multiprocessing import shared_memory\nm = shared_memory.SharedMemory(create=True, size=10, name='left')\n",
        heavy=True,
    ),
    script(
        "process executor",
        "from concurrent.futures import ProcessPoolExecutor\nif __name__ == '__main__':\n    with ProcessPoolExecutor(2) as e:\n        print(list(e.map(abs, [-1, -2])))\n",
        heavy=True,
    ),
    script(
        "asyncio",
        "import asyncio\nasync def main():\n    p = await asyncio.create_subprocess_exec('echo', 'hi', stdout=-1)\n    print(await p.communicate())\n    await asyncio.sleep(0.01)\n    return 3\nprint(asyncio.run(main()))\n",
    ),
    script(
        "asyncio interrupted",
        "import asyncio, os, signal\nasync def main():\n    asyncio.get_running_loop().call_later(0.1, os.kill, os.getpid(), signal.SIGINT)\n    await asyncio.sleep(30)\nasyncio.run(main())\n",
        exit_code=130,
    ),
    script(
        "asyncio task left",
        "import asyncio\nasync def f():\n    try:\n        await asyncio.sleep(30)\n    finally:\n        print('cancelled')\nasync def main():\n    asyncio.create_task(f())\n    await asyncio.sleep(0)\nasyncio.run(main())\n",
    ),
)
