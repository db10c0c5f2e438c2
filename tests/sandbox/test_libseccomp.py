"""The same policy built by libseccomp: its program and ours give the same verdicts.

libseccomp has no rule for "any other argument" and refuses a rule that does what its default does,
so the policy is three of its programs, which the kernel would run one after the other, the last
one set first: the strictest verdict counts, and among equally strict ones the first. One asks
whether the call is known, one whether it is permitted, one whether its arguments are.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import Literal

import pyseccomp
import pytest

from sandbox.spawner import seccomp, syscalls
from tests.sandbox import bpf_machine
from tests.sandbox.bpf_machine import ALLOW, ENOSYS, EPERM, KILL_PROCESS

Mode = Literal["deny-list", "allow-list"]
Families = Literal["unix", "inet"]

_MACHINES = ("x86_64", "aarch64")
_ARCH = {"x86_64": pyseccomp.Arch.X86_64, "aarch64": pyseccomp.Arch.AARCH64}
_NAMESPACES = (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000)
_REQUESTS = (0x5412, 0x541C, 0x5423)
_ALLOWED_FAMILIES = {"unix": (1,), "inet": (1, 2, 10)}
_LOW = 0xFFFFFFFF
_HIGH = (0, 1 << 32, 0xDEADBEEF << 32)
_EDGES = (0x3FFFFFFF, 0x40000000, 0x40000001, 0x40000000 + 520, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE)


def _is_low(argument: int, value: int) -> pyseccomp.Arg:
    # A plain EQ would compare 64 bits, of which the kernel drops the upper half of these.
    return pyseccomp.Arg(argument, pyseccomp.MASKED_EQ, _LOW, value)


class _Policy:
    """libseccomp's programs for one architecture."""

    def __init__(self, machine: str, mode: Mode, families: Families) -> None:
        numbers = syscalls.numbers(machine)
        self._machine = machine
        self._native = pyseccomp.system_arch() == _ARCH[machine]
        # For another architecture libseccomp takes names alone, and only those that it knows.
        self.untold = {
            number
            for name, number in numbers.items()
            if not self._native and pyseccomp.resolve_syscall(_ARCH[machine], name) < 0
        }
        self._numbers = {n: number for n, number in numbers.items() if number not in self.untold}
        known = self._new(ENOSYS)
        permitted = self._new(EPERM)
        arguments = self._new(ALLOW)
        refused = set(seccomp._REFUSED.split())
        allowed = set(numbers if mode == "deny-list" else seccomp._DOCKER.split()) - refused
        for name in self._numbers:
            if name != "clone3":
                self._add(known, ALLOW, name)
            if name in ("socket", "socketpair"):
                for family in _ALLOWED_FAMILIES[families]:
                    self._add(permitted, ALLOW, name, _is_low(0, family))
            elif name in allowed | {"clone"}:
                self._add(permitted, ALLOW, name)
        for flag in _NAMESPACES:
            masked = pyseccomp.Arg(0, pyseccomp.MASKED_EQ, flag, flag)
            self._add(arguments, EPERM, "clone", masked)
        for request in _REQUESTS:
            self._add(arguments, EPERM, "ioctl", _is_low(1, request))
        self.programs = [self._export(built) for built in (known, permitted, arguments)]

    def _new(self, default: int) -> pyseccomp.SyscallFilter:
        made = pyseccomp.SyscallFilter(default)
        made.set_attr(pyseccomp.Attr.ACT_BADARCH, KILL_PROCESS)
        if not self._native:
            made.add_arch(_ARCH[self._machine])
            made.remove_arch(pyseccomp.system_arch())
        return made

    def _add(
        self, made: pyseccomp.SyscallFilter, action: int, name: str, *arguments: pyseccomp.Arg
    ) -> None:
        made.add_rule(action, self._numbers[name] if self._native else name, *arguments)

    @staticmethod
    def _export(made: pyseccomp.SyscallFilter) -> bpf_machine.Program:
        with tempfile.TemporaryFile() as file:
            made.export_bpf(file)
            file.seek(0)
            return bpf_machine.parse(file.read())

    def verdict(self, data: bytes) -> int:
        verdicts = [bpf_machine.verdict(program, data) for program in self.programs]
        if KILL_PROCESS in verdicts:
            return KILL_PROCESS
        # Of the actions here only the numbers of errno differ in the lower half.
        return min(verdicts, key=lambda verdict: verdict & 0xFFFF0000)


def _calls(machine: str) -> Iterator[tuple[int, bytes]]:
    numbers = syscalls.numbers(machine)
    for number in (*range(601), *_EDGES):
        for architecture in bpf_machine.ARCHITECTURES:
            yield number, bpf_machine.call(architecture, number)
    patterns = {
        "clone": [(flags | 17,) for flags in (0, 0x3D0F00, 0x80, *_NAMESPACES)],
        "socket": [(family,) for family in (*range(64), _LOW)],
        "socketpair": [(family,) for family in (*range(64), _LOW)],
        "ioctl": [(0, request) for request in (*range(0x5400, 0x5430), 0, _LOW)],
    }
    for name, all_arguments in patterns.items():
        for arguments in all_arguments:
            for high in _HIGH:
                widened = [argument | high for argument in arguments]
                yield numbers[name], bpf_machine.call(machine, numbers[name], *widened)


@pytest.mark.parametrize("machine", _MACHINES)
@pytest.mark.parametrize("mode", seccomp.MODES)
@pytest.mark.parametrize("families", ["unix", "inet"])
def test_libseccomp_gives_the_same_verdicts(machine: str, mode: Mode, families: Families) -> None:
    theirs = _Policy(machine, mode, families)
    ours = bpf_machine.parse(seccomp.build_filter(machine, mode=mode, families=families))
    # What the installed libseccomp is too old to name cannot be compared: a few new calls at most.
    assert all(number > 440 for number in theirs.untold)
    compared = 0
    for number, data in _calls(machine):
        if number not in theirs.untold:
            assert bpf_machine.verdict(ours, data) == theirs.verdict(data), (number, data.hex())
            compared += 1
    assert compared > 2000


def test_the_one_number_where_libseccomp_differs() -> None:
    # libseccomp lets -1 pass its x32 check, for a tracer skips a call by writing -1 as its number,
    # and then gives the default verdict. Nothing traces in a sandbox: to us it is no x86_64 number.
    data = bpf_machine.call("x86_64", 0xFFFFFFFF)
    ours = bpf_machine.parse(seccomp.build_filter("x86_64"))
    assert bpf_machine.verdict(ours, data) == KILL_PROCESS
    assert _Policy("x86_64", "deny-list", "inet").verdict(data) == ENOSYS
