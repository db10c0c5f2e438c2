"""Accounts on the command line: making one, logging in and out, letting others in."""

import json
import re
import stat
from pathlib import Path

from tests.cli.conftest import Shell


def test_an_account_is_made_logged_in_used_and_left(shell: Shell, tmp_path: Path) -> None:
    ann = shell.account("ann", tmp_path / "ann")
    kept = tmp_path / "ann/login/credentials.toml"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    identity = json.loads(ann.run("account", "whoami", "--json").stdout)
    assert (identity["account"], identity["role"]) == ("ann", "user")
    assert identity["master"] == shell.up.address
    assert ann.run("run", "--", "echo", "mine").stdout == "mine\n"
    token = ann.client.whoami()
    assert token.account == "ann"
    left = ann.run("account", "logout")
    assert left.stdout == f"logged out of {shell.up.address}\n"
    assert not kept.exists()
    again = ann.run("whoami", environment={"HIVEMIND_MASTER": shell.up.address})
    assert again.returncode == 1
    assert again.stderr.startswith("hivemind: not logged in; log in to")


def test_the_local_admin_cannot_lock_itself_out(shell: Shell) -> None:
    done = shell.run("account", "logout")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("hivemind: nobody is logged in: commands act for the admin of ")
    assert done.stderr.count("\n") == 1
    assert shell.client.whoami().account == "admin"


def test_a_token_is_worthless_after_its_logout(shell: Shell, tmp_path: Path) -> None:
    from hivemind.settings.credentials import read_credentials

    bob = shell.account("bob", tmp_path / "bob")
    credentials = read_credentials(tmp_path / "bob/login")
    assert credentials is not None
    bob.client.logout()
    environment = {"HIVEMIND_TOKEN": credentials.token, "HIVEMIND_MASTER": shell.up.address}
    done = bob.run("whoami", environment=environment)
    assert done.returncode == 1
    assert "log in to" in done.stderr


def test_whoever_looks_on_with_a_token_that_is_revoked_sees_no_more(
    shell: Shell, tmp_path: Path
) -> None:
    eve = shell.account("eve", tmp_path)
    task_id = eve.submit("--", "sh", "-c", "echo begun; sleep 60; echo later")
    looking = eve.start("logs", "-f", task_id)
    assert looking.stdout is not None
    assert looking.stdout.readline() == b"begun\n"
    eve.client.logout()
    out, told = looking.communicate(timeout=20)
    shell.client.stop(task_id)
    assert (looking.returncode, out) == (1, b"")
    assert re.fullmatch(r"hivemind: this token was revoked; log in .*\n", told.decode()), told


def test_what_is_no_token_cannot_be_revoked_and_that_is_all_that_is_said(shell: Shell) -> None:
    done = shell.run("account", "revoke", "no-token")
    assert done.returncode == 1
    assert done.stderr == "hivemind: nothing to revoke: the token is not one of this pool\n"


def test_a_name_that_is_taken_and_a_wrong_password_are_told(shell: Shell, tmp_path: Path) -> None:
    shell.account("carol", tmp_path / "carol")
    environment = {"HIVEMIND_MASTER": shell.up.address}
    for verb, words in (("register", "taken"), ("login", "no account has this name")):
        done = shell.pool.cli(
            *("account", verb, "carol", "--password-stdin"),
            home=tmp_path / "other",
            stdin=b"another password",
            environment=environment,
        )
        assert done.returncode == 1
        assert words in done.stderr.decode()
        assert done.stderr.count(b"\n") == 1


def test_an_invitation_is_for_admins_to_give(shell: Shell, tmp_path: Path) -> None:
    code = json.loads(shell.run("account", "invite", "--ttl", "1h", "--json").stdout)
    assert set(code) == {"invite", "expires_at"}
    dave = shell.account("dave", tmp_path / "dave")
    done = dave.run("account", "invite")
    assert done.returncode == 1
    assert "only an admin may invite" in done.stderr


def test_a_join_token_is_printed_alone(shell: Shell) -> None:
    done = shell.run("node", "token", "--ttl", "5m")
    assert done.returncode == 0
    assert len(done.stdout.split()) == 1
    assert set(json.loads(shell.run("node", "token", "--json").stdout)) == {
        "join_token",
        "expires_at",
    }


def test_without_a_terminal_a_password_is_not_asked_for(shell: Shell, tmp_path: Path) -> None:
    done = shell.pool.cli("account", "login", "ann", home=tmp_path)
    assert done.returncode == 1
    assert b"use --password-stdin" in done.stderr


def test_an_empty_or_unreadable_password_is_refused(shell: Shell, tmp_path: Path) -> None:
    for given in (b"", b"\n", b"\xff\xff", b"x" * 5000):
        done = shell.pool.cli(
            "account", "login", "ann", "--password-stdin", home=tmp_path, stdin=given
        )
        assert done.returncode == 1
        assert done.stderr.startswith(b"hivemind: ")
