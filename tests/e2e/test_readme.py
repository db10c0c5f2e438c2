"""What the README says is so: its commands are run as they stand there."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import click
import pytest

from hivemind.cli.main import cli
from hivemind.settings.credentials import read_credentials
from tests.pool import COMMAND_S, Daemon, Pool, clean_environment

README = Path(__file__).resolve().parents[2] / "README.md"
MAIN = "import os; open(os.path.join(os.environ['HIVEMIND_OUTPUT'], 'made.txt'), 'w').write('made')"


def block(heading: str, number: int = 0) -> str:
    """A fenced block under a heading, without its comments."""
    section = README.read_text().split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    fenced = re.findall(r"```\w+\n(.*?)```", section, re.DOTALL)[number]
    return "\n".join(re.sub(r"\s{2,}#.*", "", line) for line in fenced.splitlines())


def shell(script: str, *, home: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = clean_environment(HIVEMIND_HOME=str(home))
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    return subprocess.run(
        ["sh", "-ec", script],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
        check=False,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a reader of the README would stand."""
    made = tmp_path / "reader"
    project = made / "project"
    project.mkdir(parents=True)
    (project / "main.py").write_text(MAIN)
    with zipfile.ZipFile(made / "project.zip", "w") as archive:
        archive.write(project / "main.py", "main.py")
    return made


def test_the_first_task_runs_as_written(pool: Pool, folder: Path) -> None:
    assert block("A first task in a minute", 0).splitlines()[-1] == "hivemind up"
    up = pool.up()
    done = shell(block("A first task in a minute", 1), home=up.home, folder=folder)
    assert (done.returncode, done.stdout) == (0, "hello from /task\n"), done.stderr


def test_everything_that_can_be_run_runs_as_written(pool: Pool, folder: Path) -> None:
    up = pool.up()
    (folder / "hello.py").write_text("import sys; print('hello', *sys.argv[1:])\n")
    done = shell(block("What you can run"), home=up.home, folder=folder)
    assert (done.returncode, done.stdout) == (0, "hello one two\n1\n2\n3\n5\n"), done.stderr
    assert (folder / "results" / "made.txt").read_text() == "made"


def test_a_script_that_says_what_it_needs_gets_it(pool: Pool, folder: Path) -> None:
    up = pool.up()
    said = block("What you can run", 1)
    (folder / "needy.py").write_text(f"{said}\nprint('got it')\n")
    done = shell("hivemind run needy.py; hivemind ps --all --json", home=up.home, folder=folder)
    assert done.returncode == 0, done.stderr
    assert '"memory_bytes": 268435456' in done.stdout
    assert '"wall_s": 300' in done.stdout


def test_what_the_readme_says_of_cpt_runs_as_written(pool: Pool, folder: Path) -> None:
    up = pool.up()
    (folder / "hello.py").write_text("print('hello')\n")
    made = pool.cli(
        "account", "register", "ann", "--password-stdin", home=up.home, stdin=b"a long password"
    )
    assert made.returncode == 0, made.stderr
    ann = folder / "ann"
    login = ("account", "login", "ann", "--password-stdin")
    at_home = {"HIVEMIND_MASTER": up.address}
    pool.cli(*login, home=ann, stdin=b"a long password", environment=at_home)
    done = shell(block("CPT and trust").replace("NAME", "admin"), home=ann, folder=folder)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "20 CPT at most: 2 CPT a minute for up to 10m; you have 100 CPT"
    assert lines[1] == "hello"
    kinds = [line.split()[3] for line in lines if line.endswith("UTC", 0, 23)]
    assert kinds == ["transfer", "refund", "hold", "grant"]


def test_a_second_machine_joins_as_written(pool: Pool, folder: Path) -> None:
    making, starting, token_line = block("Several machines", 0).splitlines()
    made = shell(making.replace("MASTER", "localhost"), home=folder, folder=folder)
    assert made.returncode == 0, made.stderr
    words = starting.split()
    assert words[:4] == ["hivemind", "master", "--listen", "0.0.0.0:50051"]
    files = [str(folder / word) if word.startswith("tls/") else word for word in words[4:]]
    master = pool.master(*files, listen="0.0.0.0:0")
    port = master.address.rpartition(":")[2]
    token = shell(token_line, home=master.home, folder=folder).stdout.strip()
    (folder / "ca.pem").write_bytes((folder / "tls/ca.pem").read_bytes())

    worker_line = block("Several machines", 1).replace("TOKEN", token)
    said = worker_line.replace("ca.pem", str(folder / "ca.pem")).split()
    assert said[:4] == ["hivemind", "worker", "--master", "MASTER:50051"]
    pool.worker(f"localhost:{port}", *said[4:])
    ran = pool.cli("run", "--", "echo", "ran", home=master.home)
    assert ran.stdout == b"ran\n", ran.stderr.decode()

    exporting, login = block("Several machines", 2).splitlines()
    assert login == "hivemind account login NAME"
    told = exporting.replace("MASTER:50051", f"localhost:{port}")
    done = shell(
        f"{told}\nexport HIVEMIND_TOKEN={_account_token(master)}\nhivemind whoami",
        home=folder / "elsewhere",
        folder=folder,
    )
    assert (done.returncode, "admin" in done.stdout) == (0, True), done.stderr


def _account_token(master: Daemon) -> str:
    credentials = read_credentials(master.home)
    assert credentials is not None
    return credentials.token


def test_every_command_is_in_the_readme() -> None:
    text = README.read_text()
    context = click.Context(cli)
    for name in cli.list_commands(context):
        assert re.search(rf"`(hivemind )?{name}\b", text) or f"hivemind {name}" in text, name


def test_every_command_that_the_readme_names_exists() -> None:
    context = click.Context(cli)
    known = set(cli.list_commands(context))
    named = set(re.findall(r"hivemind ([a-z]+)\b", README.read_text()))
    assert named - known == set()
