"""`python -m sandbox run [OPTIONS] -- COMMAND [ARGUMENT ...]`, and `python -m sandbox probe`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import attrs
import trio

from sandbox.command_line import MISUSED, parse
from sandbox.errors import BadSpec, Finding, SandboxError
from sandbox.foreground import run_in_foreground
from sandbox.order import read_order
from sandbox.probe import is_whole, probe

_NOT_RUN = 125
_INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    _fill_standard_descriptors()
    parsed = parse(sys.argv[1:] if arguments is None else arguments)
    try:
        if parsed.what == "probe":
            return _tell(trio.run(probe), as_json=parsed.json)
        try:
            order = read_order(parsed, Path.cwd(), stdin_is_terminal=os.isatty(0))
        except BadSpec as error:
            sys.stderr.write(f"sandbox: {error}\n")
            return MISUSED
        return trio.run(run_in_foreground, order)
    except SandboxError as error:
        sys.stderr.write(f"sandbox: {error}\n")
        return _NOT_RUN
    except KeyboardInterrupt:
        return _INTERRUPTED


def _fill_standard_descriptors() -> None:
    """Open /dev/null where one of 0 to 2 is closed, lest a file of our own takes its place."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open("/dev/null", os.O_RDWR)  # the lowest free number: this one


def _tell(findings: tuple[Finding, ...], *, as_json: bool) -> int:
    whole = is_whole(findings)
    if as_json:
        document = {"whole": whole, "findings": [attrs.asdict(finding) for finding in findings]}
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    else:
        for finding in findings:
            word = "ok     " if finding.ok else "missing"
            remedy = f": {finding.remedy}" if finding.remedy else ""
            sys.stdout.write(f"{word} {finding.name}: {finding.detail}{remedy}\n")
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
