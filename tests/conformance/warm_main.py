"""The smallest warm interpreter: preloads, forks one task, becomes it, writes down how it ended.

Started as `python3 warm_main.py LAUNCHER_FOLDER REPORT ARGV...` in the task's folder; the task's
variables come as JSON in the file REPORT, which is then overwritten.
"""

from __future__ import annotations

import sys

sys.path[0] = sys.argv[1]

import warm  # noqa: E402


def main() -> None:
    import json
    import os

    report, argv = sys.argv[2], sys.argv[3:]
    with open(report) as file:  # noqa: PTH123
        env = json.load(file)
    ready = warm.preload()
    start = ready.plan(argv, env)
    pid = os.fork() if start is not None else -1
    if pid == 0:
        try:
            ready.become(start, env)
        except warm.CannotBecomeError:
            os._exit(99)
        return
    status = os.waitpid(pid, 0)[1] if pid > 0 else None
    with open(report, "w") as file:  # noqa: PTH123
        json.dump(status, file)
    os._exit(0)


main()
