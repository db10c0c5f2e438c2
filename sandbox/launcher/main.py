"""Start of a launcher: `python3 main.py KIND SOCKET [CONTROL]`, KIND being `exec` or `warm`."""

# Plain strings throughout; pathlib would slow the start.
# ruff: noqa: PTH100, PTH120

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sandbox.launcher import warm
elif sys.argv[1] == "warm":
    # First of all, since it notes which modules a new interpreter has by itself; and from this
    # file's own folder, which is the first on the path, since it is not to be part of a package.
    import warm

import _socket  # noqa: E402
import gc  # noqa: E402
import os  # noqa: E402


def _make_package_importable() -> None:
    """Let `sandbox.launcher` be imported from the copy around this file, without attrs or Trio."""
    package = type(sys)("sandbox")
    package.__path__ = [os.path.dirname(os.path.dirname(os.path.abspath(__file__)))]
    sys.modules["sandbox"] = package


def main() -> None:
    """Serve. In the process of a Python task this returns, and the interpreter goes on as it."""
    _make_package_importable()
    from sandbox.launcher import serve

    kind, *sockets = sys.argv[1:]
    link, *controls = [_socket.socket(fileno=int(number)) for number in sockets]
    for number in sockets:
        os.set_inheritable(int(number), False)
    ready = warm.preload() if kind == "warm" else None
    # What is never freed need not be looked at again, which would have forks copy its pages.
    gc.collect()
    gc.freeze()
    gc.disable()
    task = serve.Launcher(link, controls[0] if controls else None, ready).serve()
    if task is None or ready is None:
        os._exit(0)  # the pool closed its end
    try:
        if task.start is None:
            serve.execute_here(task.argv, task.env)
        ready.become(task.start, task.env)
    except warm.CannotBecomeError:
        serve.execute_here(task.argv, task.env)


main()
