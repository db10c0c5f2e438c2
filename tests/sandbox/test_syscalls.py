"""The frozen numbers, against three others' tables of the same."""

from __future__ import annotations

from pathlib import Path

import pyseccomp
import pytest
from seccompy import syscalls as reference

from sandbox.spawner import syscalls

_MACHINES = ("x86_64", "aarch64")
_LIBSECCOMP = {"x86_64": pyseccomp.Arch.X86_64, "aarch64": pyseccomp.Arch.AARCH64}
# The oldest libseccomp in use (2.5, of 2020) knows all of Linux 5.9.
_SURELY_KNOWN = 440


@pytest.mark.parametrize("machine", _MACHINES)
def test_libseccomp_resolves_every_name_to_the_same_number(machine: str) -> None:
    compared = 0
    for name, number in syscalls.numbers(machine).items():
        resolved = pyseccomp.resolve_syscall(_LIBSECCOMP[machine], name)
        if resolved < 0 and (number >= _SURELY_KNOWN or name in ("uretprobe", "uprobe")):
            continue  # newer than the installed libseccomp
        assert resolved == number, name
        compared += 1
    assert compared > 300


@pytest.mark.parametrize("machine", _MACHINES)
def test_libseccomp_knows_no_call_that_the_table_lacks(machine: str) -> None:
    ours = {number: name for name, number in syscalls.numbers(machine).items()}
    known = 0
    for number in range(600):
        try:
            name = pyseccomp.resolve_syscall(_LIBSECCOMP[machine], number).decode()
        except ValueError:
            continue  # nobody has such a number
        assert ours.get(number) == name
        known += 1
    assert known > 300


@pytest.mark.parametrize("machine", _MACHINES)
def test_the_tables_made_from_the_kernels_headers_are_the_same(machine: str) -> None:
    tables = {"x86_64": reference.X86_64_SYSCALLS, "aarch64": reference.AARCH64_SYSCALLS}
    # The generic header also names what only 32-bit architectures have.
    names = set(syscalls.numbers("x86_64"))
    theirs = {name: number for name, number in tables[machine].items() if name in names}
    assert syscalls.numbers(machine) == theirs
    assert all(
        name.endswith(("64", "llseek", "mmap2", "fstatat", "sync_file_range2", "64_64"))
        for name in set(tables[machine]) - set(theirs)
    )


@pytest.mark.parametrize("machine", _MACHINES)
def test_no_number_has_two_names(machine: str) -> None:
    numbers = syscalls.numbers(machine)
    assert len(set(numbers.values())) == len(numbers)
    assert max(numbers.values()) < 512  # where x32's own numbers begin


@pytest.mark.parametrize(
    ("machine", "header"),
    [("x86_64", "x86_64-linux-gnu/asm/unistd_64.h"), ("aarch64", "asm-generic/unistd.h")],
)
def test_the_installed_headers_agree(machine: str, header: str) -> None:
    path = Path("/usr/include") / header
    if not path.exists():
        pytest.skip("no kernel headers are installed")
    known = {}
    for line in path.read_text().splitlines():
        words = line.split()
        if len(words) >= 3 and words[0] == "#define" and words[2].isdigit():
            known[words[1].removeprefix("__NR_").removeprefix("__NR3264_")] = int(words[2])
    ours = syscalls.numbers(machine)
    both = ours.keys() & known.keys()
    assert len(both) > 300
    assert {name: ours[name] for name in both} == {name: known[name] for name in both}
