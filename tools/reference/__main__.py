"""python -m tools.reference [--check]: write hivemind/REFERENCE.md; with --check, only compare."""

import sys
from pathlib import Path

from tools.reference.commands import command_lines
from tools.reference.keys import key_lines
from tools.reference.variables import variable_lines

PACKAGE = Path(__file__).resolve().parents[2] / "hivemind"
REFERENCE = PACKAGE / "REFERENCE.md"

_OPENING = """# Reference

Everything that can be given to HiveMind. This page is made from the code by `just reference`; to
change it, change what the code says. Sizes are written `"64K"`, `"512M"`, `"4G"` or as a number of
bytes, times `"90s"`, `"5m"`, `"2h"`, `"1d"` or as a number of seconds.
"""


def render() -> str:
    """The page as the code wants it. Raises Undescribed."""
    lines = [_OPENING, *command_lines(), *key_lines(), *variable_lines(PACKAGE)]
    return "\n".join(lines).rstrip() + "\n"


def main(arguments: list[str]) -> int:
    """The exit status: 1 where --check finds the page out of date."""
    wanted = render()
    if arguments == ["--check"]:
        if REFERENCE.is_file() and REFERENCE.read_text() == wanted:
            return 0
        print(
            "hivemind/REFERENCE.md is not what the code says; run: just reference", file=sys.stderr
        )
        return 1
    REFERENCE.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
