"""Start of a launcher: `python3 main.py KIND SOCKET`, KIND being `exec` or `warm`."""

# Plain strings throughout; pathlib would slow the start.
# ruff: noqa: PTH100, PTH120

from __future__ import annotations

import gc
import os
import socket
import sys
import types


def _make_package_importable(top: str) -> None:
    """Let `sandbox.launcher` be imported from the copy beside this file, without attrs or Trio."""
    package = types.ModuleType("sandbox")
    package.__path__ = [os.path.dirname(top)]
    sys.modules["sandbox"] = package


def main() -> None:
    """Serve; in the process of a Python task, go on as that task."""
    _make_package_importable(os.path.dirname(os.path.abspath(__file__)))
    kind, descriptor = sys.argv[1], int(sys.argv[2])
    from sandbox.launcher import serve

    if kind == "warm":
        from sandbox.launcher import warm

        warm.preload()
    # What is never freed need not be looked at again, which would have forks copy its pages.
    gc.collect()
    gc.freeze()
    gc.disable()
    link = socket.socket(fileno=descriptor)
    link.set_inheritable(False)
    start = serve.Launcher(link).serve()
    if start is None:
        os._exit(0)  # the pool closed its end
    from sandbox.launcher import warm

    warm.become(start.argv, start.env)


if __name__ == "__main__":
    main()
