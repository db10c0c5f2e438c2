"""What every command shares: a fast start, one-line faults, the right status."""

import subprocess
import sys
from pathlib import Path

import pytest

from hivemind import version
from hivemind.cli.main import cli
from tests.pool import HIVEMIND, clean_environment

_HEAVY = ("trio", "rich", "grpclib", "betterproto2", "attrs", "structlog", "apsw", "cryptography")


def _run(
    *arguments: str, home: Path | None = None, stdin: bytes = b"", **variables: str
) -> "subprocess.CompletedProcess[str]":
    if home is not None:
        variables["HIVEMIND_HOME"] = str(home)
    done = subprocess.run(
        [HIVEMIND, *arguments],
        input=stdin,
        env=clean_environment(**variables),
        capture_output=True,
        timeout=60,
        check=False,
    )
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


def test_help_loads_nothing_heavy() -> None:
    program = (
        "import sys; from hivemind.cli.main import run_main; status = run_main(['--help']);"
        f"print([name for name in {_HEAVY!r} if name in sys.modules], status)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.decode().splitlines()[-1] == "[] 0"


def test_help_has_every_command_of_the_contract() -> None:
    names = set(cli.list_commands(None))  # type: ignore[arg-type]
    daemons = {"up", "master", "worker"}
    tasks = {"run", "submit", "wait", "logs", "stop", "result", "ps", "show", "explain"}
    assert names >= daemons | tasks | {"nodes", "node", "account", "doctor"}


@pytest.mark.parametrize("name", sorted(cli.list_commands(None)))  # type: ignore[arg-type]
def test_each_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    from hivemind.cli.main import run_main

    assert run_main([name, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"Usage: hivemind {name}")


def test_no_summary_is_cut_off(capsys: pytest.CaptureFixture[str]) -> None:
    from hivemind.cli.main import run_main

    assert run_main(["--help"]) == 0
    _, _, commands = capsys.readouterr().out.partition("Commands:")
    assert commands
    assert "..." not in commands


def test_the_version_is_the_distributions() -> None:
    assert _run("--version").stdout == f"hivemind {version()}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["frobnicate"], "frobnicate"),
        (["run"], "nothing to run"),
        (["run", ""], "nothing to run"),
        (["run", "--memory", "12Q", "a.py"], "'12Q' is not a size"),
        (["run", "--frobnicate", "a.py"], "--frobnicate"),
        (["wait"], "ID..."),
        (["result", "x"], "--output"),
        (["up", "--slots", "0"], "--slots"),
        (["up", "--limits", "none"], "--limits"),
        (["up", "--listen", "nonsense"], "--listen"),
        (["worker"], "--master"),
        (["worker", "--master", "nonsense"], "--master"),
    ],
)
def test_misuse_is_2_and_one_line_that_names_it(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    done = _run(*arguments, home=tmp_path / "home")
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("hivemind: ")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("name", ["missing.py", "empty.zip", "not-a.zip", "no-entry.zip"])
def test_a_program_that_cannot_be_is_125_for_run_and_1_for_submit(
    tmp_path: Path, name: str
) -> None:
    from tests.client.test_archives import make_zip

    make_zip(tmp_path / "empty.zip", {})
    make_zip(tmp_path / "no-entry.zip", {"readme.txt": b"x"})
    (tmp_path / "not-a.zip").write_bytes(b"hello")
    for verb, status in (("run", 125), ("submit", 1)):
        done = _run(verb, str(tmp_path / name), home=tmp_path / "home")
        assert done.returncode == status
        assert done.stderr.startswith(f"hivemind: {tmp_path / name}: ")
        assert done.stderr.count("\n") == 1


def test_a_master_that_is_not_there_and_no_login_are_told(tmp_path: Path) -> None:
    done = _run("ps", home=tmp_path, HIVEMIND_TOKEN="x", HIVEMIND_MASTER="127.0.0.1:1")
    assert done.returncode == 1
    assert "no master answers at 127.0.0.1:1" in done.stderr
    done = _run("ps", home=tmp_path)
    assert done.returncode == 1
    assert "no pool is known here; start one with `hivemind up`" in done.stderr
    done = _run("ps", home=tmp_path, HIVEMIND_MASTER="127.0.0.1:1")
    assert done.returncode == 1
    assert "log in to 127.0.0.1:1 with `hivemind account login NAME`" in done.stderr
    done = _run("ps", home=tmp_path, HIVEMIND_MASTER="nonsense")
    assert done.returncode == 1
    assert "not an address" in done.stderr


def test_an_unforeseen_fault_is_one_line_with_an_id_and_the_rest_on_request(
    tmp_path: Path,
) -> None:
    program = (
        "import sys\n"
        "import hivemind.cli.session as session\n"
        "def fail(work): raise ValueError('oh\\nno')\n"
        "session.with_client = fail\n"
        "from hivemind.cli.main import run_main\n"
        "sys.exit(run_main(['ps']))\n"
    )
    for debug in ("", "1"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=clean_environment(HIVEMIND_DEBUG=debug),
            capture_output=True,
            check=False,
        )
        said = done.stderr.decode()
        assert done.returncode == 1
        assert "unforeseen fault" in said
        assert "ValueError: oh no" in said.splitlines()[-1]
        assert ("Traceback" in said) == bool(debug)


def test_a_client_command_loads_nothing_that_only_daemons_need() -> None:
    code = "import sys, hivemind.cli.session; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"structlog", "rich", "psutil", "nacl", "apsw", "sandbox", "hivemind.core.queue"}
    assert heavy & set(done.stdout.split()) == set()
