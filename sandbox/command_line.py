"""What `python -m sandbox` understands: its options, each in the form that a run needs."""

from __future__ import annotations

import argparse
import contextlib
import re
import stat
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import NoReturn, TypeVar

from sandbox.errors import BadSpec
from sandbox.quantities import parse_size, parse_time
from sandbox.spec import Limits, ReadOnlyBind, StagedFile

_T = TypeVar("_T")

MISUSED = 2
_SUMMARY = "Run untrusted programs: bubblewrap, seccomp and cgroups."
_RUN_SUMMARY = """\
Run a command in a sandbox of its own, with its output as it comes.

The command starts in /task, an empty folder of the sandbox. Its first word that names a file of
the present folder (x.py in `python3 x.py`, tool in `./tool`) is copied there under the same name,
unless an archive is given; all else that it is to see is named with --file, --archive or --ro."""
_RUN_NOTES = """\
Sizes are bytes or 64K, 256M, 1G; times are seconds or 500ms, 10s, 5m, 2h.

The exit status is the command's own, 128+n where signal n ended it, 127 where it is not there,
126 where it cannot be executed. 124: it reached a time limit. 137: it used up its memory, or wrote
too much. 125: the sandbox could not run it. 130, 143: this program was interrupted or terminated,
and the run with it. 141: nobody reads the output any more. 2: the options are wrong."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(MISUSED, f"sandbox: {message}: see `{self.prog} --help`\n")


def parse(arguments: list[str]) -> argparse.Namespace:
    """Parse the arguments; `what` is "run" or "probe". Misuse is told and ends the program."""
    options, dashes, command = arguments, list[str](), list[str]()
    if "--" in arguments:
        end = arguments.index("--")
        options, dashes, command = arguments[:end], arguments[end : end + 1], arguments[end + 1 :]
    parsed = _build_parser().parse_args(options)
    if parsed.what == "run":
        # Without an option's end before it, the command has begun already, and -- is its own.
        parsed.command += [*dashes, *command] if parsed.command else command
    return parsed


def _build_parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m sandbox", description=_SUMMARY)
    commands = parser.add_subparsers(dest="what", required=True, metavar="COMMAND")
    probe = commands.add_parser(
        "probe",
        help="say what this machine can enforce, and how to mend what it cannot",
        description="Say what this machine can enforce, and how to mend what it cannot. "
        "Exits with 0 where isolation and limits by cgroup can be had, else with 1.",
    )
    probe.add_argument("--json", action="store_true", help="as one JSON document")
    run = commands.add_parser(
        "run",
        help="run a command in a sandbox",
        description=_RUN_SUMMARY,
        epilog=_RUN_NOTES,
        usage="%(prog)s [OPTIONS] -- COMMAND [ARGUMENT ...]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_limits(run)
    _add_isolation(run)
    _add_files(run)
    run.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND [ARGUMENT ...]")
    return parser


def _add_limits(run: argparse.ArgumentParser) -> None:
    default = Limits()
    limits = run.add_argument_group("limits")
    limits.add_argument(
        "--memory",
        type=_option(parse_size),
        default=default.memory_bytes,
        metavar="SIZE",
        help="default 512M",
    )
    limits.add_argument(
        "--time",
        type=_option(parse_time),
        default=default.wall_s,
        metavar="TIME",
        help="default 1h",
    )
    limits.add_argument("--cpu-time", type=_option(parse_time), metavar="TIME", help="default none")
    limits.add_argument(
        "--cpus",
        type=_option(_parse_cpus),
        default=default.cpus,
        metavar="NUMBER",
        help="such as 0.5; default 1",
    )
    limits.add_argument(
        "--pids",
        type=_option(_parse_count),
        default=default.pids,
        metavar="NUMBER",
        help="processes and threads; default 256",
    )
    limits.add_argument(
        "--scratch",
        type=_option(parse_size),
        default=default.scratch_bytes,
        metavar="SIZE",
        help="room in /task; default 1G",
    )
    limits.add_argument(
        "--output-limit",
        type=_option(parse_size),
        default=default.output_bytes,
        metavar="SIZE",
        help="stdout and stderr together; default 64M",
    )
    limits.add_argument(
        "--limits",
        choices=["cgroup", "best-effort"],
        default="cgroup",
        help="best-effort: rlimits and a watchdog, where no cgroup can be had; default cgroup",
    )


def _add_isolation(run: argparse.ArgumentParser) -> None:
    isolation = run.add_argument_group("isolation")
    isolation.add_argument(
        "--network",
        choices=["none", "loopback", "full"],
        default="loopback",
        help="loopback: a network of its own that leads nowhere; full: the machine's; "
        "default loopback",
    )
    isolation.add_argument(
        "--seccomp",
        choices=["deny-list", "allow-list"],
        default="deny-list",
        help="default deny-list",
    )
    isolation.add_argument(
        "--root",
        type=Path,
        metavar="FOLDER",
        help="another root file system, seen read-only in place of this machine's /usr",
    )


def _add_files(run: argparse.ArgumentParser) -> None:
    files = run.add_argument_group("what it sees, and what it leaves")
    files.add_argument(
        "--env",
        type=_option(_parse_variable),
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a variable; nothing is inherited",
    )
    files.add_argument(
        "--file",
        type=_option(_parse_file),
        action="append",
        default=[],
        metavar="FILE[:NAME]",
        help="copy a file into /task",
    )
    files.add_argument(
        "--archive", type=Path, metavar="FILE", help="unpack a zip or tar into /task"
    )
    files.add_argument(
        "--ro",
        type=_option(_parse_read_only),
        action="append",
        default=[],
        metavar="PATH:TARGET",
        help="show a file or folder read-only at an absolute path",
    )
    files.add_argument(
        "--stdin",
        metavar="FILE",
        help="what the command reads; - for this program's own stdin, which it reads anyway where "
        "that is not a terminal; /dev/null for nothing",
    )
    files.add_argument(
        "--collect",
        type=Path,
        metavar="FILE",
        help="write a tar of what the command leaves in its folder `output`, and of each --output",
    )
    files.add_argument(
        "--output",
        action="append",
        default=[],
        metavar="NAME",
        help="one more file or folder of /task for --collect",
    )


def _option(parse: Callable[[str], _T]) -> Callable[[str], _T]:
    """`parse` with its errors in the form that argparse passes on."""

    def parse_option(text: str) -> _T:
        try:
            return parse(text)
        except (ValueError, BadSpec) as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse_option


def _parse_cpus(text: str) -> float:
    if re.fullmatch(r"[0-9]{1,5}(\.[0-9]{1,9})?", text) is None:
        raise ValueError(f"{text!a} is not a number of processors: write it like 2 or 0.5")
    return float(text)


def _parse_count(text: str) -> int:
    if re.fullmatch(r"[0-9]{1,9}", text) is None:
        raise ValueError(f"{text!a} is not a whole number")
    return int(text)


def _parse_variable(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ValueError(f"{text!a} is not NAME=VALUE")
    return name, value


def _parse_file(text: str) -> StagedFile:
    # The last colon divides: a file whose own name has one is given with a new name.
    host, colon, name = text.rpartition(":")
    source = Path(host if colon else text)
    mode = 0o644
    with contextlib.suppress(OSError):  # what is not there is told when it is to be staged
        mode = stat.S_IMODE(source.stat().st_mode) & 0o777
    return StagedFile(source=source, name=name if colon else source.name, mode=mode)


def _parse_read_only(text: str) -> ReadOnlyBind:
    host, colon, target = text.rpartition(":")
    if not colon or not host:
        raise ValueError(f"{text!a} is not PATH:TARGET")
    return ReadOnlyBind(source=Path(host), target=PurePosixPath(target))
