from collections.abc import Mapping, Sequence
from typing import NoReturn

import pytest

from hivemind.worker.scope import ENTERED, enter_scope, scope_command


class Replaced(Exception):
    def __init__(self, command: Sequence[str], environ: Mapping[str, str]) -> None:
        super().__init__()
        self.command = tuple(command)
        self.environ = dict(environ)


def replace(command: Sequence[str], environ: Mapping[str, str]) -> NoReturn:
    raise Replaced(command, environ)


def enter(
    environ: Mapping[str, str], *, has_cgroup: bool = False, works: bool = True
) -> list[Sequence[str]]:
    tried: list[Sequence[str]] = []

    def try_it(command: Sequence[str]) -> bool:
        tried.append(command)
        return works

    enter_scope(
        ["hivemind", "worker"],
        environ,
        has_cgroup=lambda: has_cgroup,
        works=try_it,
        replace=replace,
    )
    return tried


def test_without_a_cgroup_the_program_is_started_anew_in_a_delegated_scope() -> None:
    with pytest.raises(Replaced) as replaced:
        enter({"HOME": "/root"})
    assert replaced.value.command == scope_command(["hivemind", "worker"])
    assert replaced.value.command[:3] == ("systemd-run", "--user", "--scope")
    assert "--property=Delegate=yes" in replaced.value.command
    assert replaced.value.command[-3:] == ("--", "hivemind", "worker")
    assert replaced.value.environ == {"HOME": "/root", ENTERED: "1"}


def test_the_scope_is_tried_once_only() -> None:
    assert enter({ENTERED: "1"}) == []


def test_nothing_is_started_where_there_is_a_cgroup() -> None:
    assert enter({}, has_cgroup=True) == []


def test_a_systemd_that_gives_no_scope_leaves_the_program_as_it_is() -> None:
    assert enter({}, works=False) == [scope_command(("true",))]


def test_a_missing_systemd_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    enter_scope(["true"], {}, has_cgroup=lambda: False, replace=replace)
