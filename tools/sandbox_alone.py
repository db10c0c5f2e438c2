"""Run a program in a sandbox from an environment that holds attrs and trio alone."""

import importlib.util
import os
import sys

import trio

import sandbox


async def main() -> None:
    for package in ("grpclib", "apsw", "psutil", "click"):
        if importlib.util.find_spec(package) is not None:
            sys.exit(f"sandbox_alone: {package} is installed here, so this proves nothing")
    limits = "cgroup" if os.geteuid() == 0 else "best-effort"
    config = sandbox.PoolConfig(slots=1, limits=limits)
    spec = sandbox.Spec(argv=("python3", "-c", "print(6 * 7)"))
    done = await sandbox.run(spec, config)
    if done.stdout != b"42\n" or done.result.exit_code != 0:
        sys.exit(f"sandbox_alone: {done}")


trio.run(main)
