"""Placeholder."""

from __future__ import annotations

import gc
import os
import sys
import types
from collections.abc import Mapping, Sequence
from typing import NoReturn


def preload() -> None:
    compile("x = 1", "<warm>", "exec")
    gc.collect()
    gc.freeze()


def can_start(argv: Sequence[str], env: Mapping[str, str], interpreter: str) -> bool:
    return (
        argv[0] == "python3" and len(argv) > 1 and (argv[1] == "-c" or not argv[1].startswith("-"))
    )


def become(argv: Sequence[str], env: Mapping[str, str]) -> NoReturn:
    os.environ.clear()
    os.environ.update(env)
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    sys.stdout = open(1, "w", closefd=False)
    sys.stderr = open(2, "w", closefd=False)
    if argv[1] == "-c":
        sys.argv = ["-c", *argv[3:]]
        code = compile(argv[2], "<string>", "exec")
    else:
        sys.argv = list(argv[1:])
        code = compile(open(argv[1], "rb").read(), argv[1], "exec")
    exec(code, main.__dict__)
    sys.exit(0)
