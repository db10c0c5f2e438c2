"""The filter's verdicts, by running its instructions."""

from __future__ import annotations

import errno
import struct
from pathlib import Path

import pytest

from sandbox.spawner import seccomp

_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_ALLOW, _KILL = 0x7FFF0000, 0x80000000


def _verdict(program: bytes, arch: int, number: int, *args: int) -> int:
    """Run the classic BPF program over one struct seccomp_data (see seccomp(2))."""
    padded = [*args, *[0] * (6 - len(args))]
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, arch, 0, *padded)
    steps = list(struct.iter_unpack("=HBBI", program))
    accumulator = position = 0
    while True:
        code, when_true, when_false, value = steps[position]
        position += 1
        if code == 0x20:
            accumulator = struct.unpack_from("<I", data, value)[0]
        elif code == 0x06:
            return int(value)
        else:
            taken = {
                0x15: accumulator == value,
                0x35: accumulator >= value,
                0x45: bool(accumulator & value),
            }[code]
            position += when_true if taken else when_false


def _refusal(number: int) -> int:
    return 0x00050000 | number


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_listed_call_is_refused_and_the_ordinary_ones_are_allowed(machine: str) -> None:
    program, arch = seccomp.build_filter(machine), _ARCH[machine]
    column = 0 if machine == "x86_64" else 1
    denied = {numbers[column] for numbers in seccomp._DENIED.values()} - {None}
    special = {
        pair[column]
        for pair in (seccomp._CLONE, seccomp._CLONE3, seccomp._SOCKET, seccomp._SOCKETPAIR)
    }
    for number in range(500):
        verdict = _verdict(program, arch, number)
        if number in denied:
            assert verdict == _refusal(errno.EPERM), number
        elif number not in special:
            assert verdict == _ALLOW, number


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_arguments_decide_about_clone_socket_and_ioctl(machine: str) -> None:
    program, arch = seccomp.build_filter(machine), _ARCH[machine]
    column = 0 if machine == "x86_64" else 1
    no = _refusal(errno.EPERM)
    clone, socket, ioctl = seccomp._CLONE[column], seccomp._SOCKET[column], seccomp._IOCTL[column]
    assert _verdict(program, arch, clone, 17) == _ALLOW
    assert _verdict(program, arch, clone, 0x3D0F00) == _ALLOW  # a thread of glibc
    for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert _verdict(program, arch, clone, flag | 17) == no
    assert _verdict(program, arch, seccomp._CLONE3[column]) == _refusal(errno.ENOSYS)
    for family in range(50):
        expected = _ALLOW if family in (1, 2, 10) else no
        assert _verdict(program, arch, socket, family) == expected
    assert _verdict(program, arch, ioctl, 0, 0x5401) == _ALLOW
    # The kernel looks at 32 bits of the request: what is above them must not help.
    for request in (0x5412, 0x541C, 0x5412 | 1 << 32):
        assert _verdict(program, arch, ioctl, 0, request) == no


def test_another_numbering_kills() -> None:
    program = seccomp.build_filter("x86_64")
    assert _verdict(program, 0x40000003, 1) == _KILL  # i386
    assert _verdict(program, _ARCH["x86_64"], 0x40000000 + 1) == _KILL  # x32
    assert _verdict(program, _ARCH["x86_64"], 0xFFFFFFFF) == _KILL


def test_an_unknown_architecture_is_refused() -> None:
    assert not seccomp.supported("riscv64")
    with pytest.raises(seccomp.UnknownArchitecture):
        seccomp.build_filter("riscv64")


def test_the_table_agrees_with_this_machines_headers() -> None:
    header = Path("/usr/include/asm-generic/unistd.h")
    if not header.exists():
        pytest.skip("no kernel headers are installed")
    text = header.read_text()
    known = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 3 and words[0] == "#define" and words[2].isdigit():
            known[words[1].removeprefix("__NR_").removeprefix("__NR3264_")] = int(words[2])
    compared = 0
    for name, (_, number) in seccomp._DENIED.items():
        if name in known:
            assert known[name] == number, name
            compared += 1
    assert compared > 50
