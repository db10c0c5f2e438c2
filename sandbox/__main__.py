"""`python -m sandbox doctor`, and `python -m sandbox run [OPTIONS] -- COMMAND [ARGS...]`."""

from __future__ import annotations

import argparse
import sys

import trio

from sandbox.errors import SandboxError
from sandbox.pool import PoolConfig, open_pool
from sandbox.probe import probe
from sandbox.result import Reason, Result, Stream
from sandbox.spec import Limits, Spec

_MIB = 1 << 20


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parsed = _parser().parse_args(arguments)
    try:
        if parsed.what == "doctor":
            return trio.run(_doctor)
        return trio.run(_run, parsed)
    except SandboxError as error:
        sys.stderr.write(f"sandbox: {error}\n")
        return 125


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sandbox", description=__doc__)
    commands = parser.add_subparsers(dest="what", required=True)
    commands.add_parser("doctor", help="say what this machine can enforce")
    run = commands.add_parser("run", help="run a command in a sandbox")
    run.add_argument("--limits", choices=["cgroup", "best-effort"], default="cgroup")
    run.add_argument("--memory", type=int, default=512, metavar="MIB")
    run.add_argument("--time", type=float, default=3600, metavar="SECONDS")
    run.add_argument("command", nargs="+", metavar="COMMAND")
    return parser


async def _doctor() -> int:
    findings = await probe()
    for finding in findings:
        word = "ok     " if finding.ok else "missing"
        remedy = f": {finding.remedy}" if finding.remedy else ""
        sys.stdout.write(f"{word} {finding.name}: {finding.detail}{remedy}\n")
    return 0 if all(finding.ok for finding in findings) else 1


async def _run(parsed: argparse.Namespace) -> int:
    limits = Limits(memory_bytes=parsed.memory * _MIB, wall_s=parsed.time)
    async with (
        open_pool(PoolConfig(limits=parsed.limits, slots=1)) as pool,
        pool.open_run(Spec(argv=tuple(parsed.command), limits=limits)) as run,
    ):
        async for chunk in run.chunks():
            stream = sys.stdout if chunk.stream is Stream.STDOUT else sys.stderr
            stream.buffer.write(chunk.data)
            stream.flush()
        return _exit_status(await run.wait())


def _exit_status(result: Result) -> int:
    if result.reason not in (Reason.EXITED, Reason.SIGNALLED):
        sys.stderr.write(f"sandbox: ended: {result.reason.replace('_', ' ')}\n")
    return result.exit_code


if __name__ == "__main__":
    sys.exit(main())
