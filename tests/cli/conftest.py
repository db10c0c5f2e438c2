"""One real pool for all tests of the command line, and an easy way to run commands against it."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from hivemind.client.blocking import BlockingClient
from tests.pool import Daemon, Pool, clean_environment, open_pool_folder


@attrs.frozen
class Shell:
    """Commands that act for whoever is logged in at ``home``."""

    pool: Pool
    up: Daemon
    home: Path

    @property
    def environment(self) -> dict[str, str]:
        """For what is started by other means."""
        return clean_environment(HIVEMIND_HOME=str(self.home))

    @property
    def client(self) -> BlockingClient:
        """For looking at what the commands did, in a fraction of the time that a command takes."""
        return BlockingClient(home=self.home)

    def run(
        self, *arguments: str, stdin: bytes | None = None, **options: Any
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end; its streams as text, with bytes that are none kept."""
        done = self.pool.cli(*arguments, home=self.home, stdin=stdin, **options)
        return subprocess.CompletedProcess(
            done.args,
            done.returncode,
            done.stdout.decode(errors="surrogateescape"),
            done.stderr.decode(errors="surrogateescape"),
        )

    def start(self, *arguments: str) -> "subprocess.Popen[bytes]":
        """Start a command."""
        return self.pool.start_cli(*arguments, home=self.home)

    def submit(self, *arguments: str) -> str:
        """Submit something; the task's id."""
        done = self.run("submit", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def account(self, name: str, home: Path) -> "Shell":
        """A new account of the pool, logged in."""
        environment = {"HIVEMIND_MASTER": self.up.address}
        other = Shell(self.pool, self.up, home)
        for verb in ("register", "login"):
            done = other.run(
                *("account", verb, name, "--password-stdin"),
                stdin=b"a long password\n",
                environment=environment,
            )
            assert done.returncode == 0, done.stderr
        return other


@pytest.fixture(scope="session")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """The first admin's commands at a pool with four slots."""
    with open_pool_folder(tmp_path_factory.mktemp("pool")) as pool:
        up = pool.up("--slots", "4")
        yield Shell(pool, up, up.home)
        assert up.stop() == 0
