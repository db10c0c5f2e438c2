"""Commands about accounts: who one is, and how others come in."""

import os
import sys
from typing import TYPE_CHECKING, ClassVar

import click

from hivemind.cli.lazy import Command, LazyGroup
from hivemind.cli.options import DURATION
from hivemind.cli.output import json_option
from hivemind.cli.tls_options import peer_tls_options

if TYPE_CHECKING:
    from hivemind.client import Client

_MOST_PASSWORD_BYTES = 4096
_MOST_TOKEN_CHARS = 8192
_password_option = click.option(
    "--password-stdin", "from_stdin", is_flag=True, help="Read the password from standard input."
)


class _AccountCommands(LazyGroup):
    commands_at: ClassVar = {
        "register": "hivemind.cli.accounts:register",
        "login": "hivemind.cli.accounts:login",
        "logout": "hivemind.cli.accounts:logout",
        "whoami": "hivemind.cli.accounts:whoami",
        "balance": "hivemind.cli.credits:balance",
        "transfer": "hivemind.cli.credits:transfer",
        "history": "hivemind.cli.credits:history",
        "invite": "hivemind.cli.accounts:invite",
        "token": "hivemind.cli.accounts:token",
        "revoke": "hivemind.cli.accounts:revoke",
        "role": "hivemind.cli.accounts:role",
        "rotate-keys": "hivemind.cli.accounts:rotate_keys",
    }


@click.group(cls=_AccountCommands)
def account() -> None:
    """Make an account, log in and out, see and give CPT, let others in."""


@click.command(cls=Command)
@click.argument("name", metavar="NAME")
@click.option("--invite", "code", default="", metavar="CODE", help="The invitation you were given.")
@_password_option
@peer_tls_options
def register(name: str, code: str, from_stdin: bool, **manner: object) -> None:
    """Make an account. Some pools ask for an invitation."""
    from hivemind.cli.output import say
    from hivemind.cli.session import with_client

    password = _password(name, from_stdin=from_stdin, is_new=True)
    with_client(lambda client: client.register(name, password, code), manner)
    say(f"account {name} made; log in with `hivemind account login {name}`")


@click.command(cls=Command)
@click.argument("name", metavar="NAME")
@_password_option
@peer_tls_options
def login(name: str, from_stdin: bool, **manner: object) -> None:
    """Log in, for the commands that follow. They speak to the master as this one did."""
    from hivemind.cli.output import say
    from hivemind.cli.session import with_client

    password = _password(name, from_stdin=from_stdin, is_new=False)

    async def enter(client: "Client") -> str:
        client.remember(name, await client.login(name, password))
        return client.address

    say(f"logged in to {with_client(enter, manner)} as {name}")
    if os.environ.get("HIVEMIND_TOKEN"):
        from hivemind.cli.faults import complain

        complain("HIVEMIND_TOKEN is set and goes before this login; unset it")


@click.command(cls=Command)
def logout() -> None:
    """Make the token that you are logged in with worthless, and forget it."""
    from hivemind.cli.faults import CommandFailed
    from hivemind.cli.output import say
    from hivemind.cli.session import with_client
    from hivemind.client.target import find_target, masters_own_file

    own = masters_own_file(None, find_target(None, None, None).token)
    if own is not None:
        raise CommandFailed(
            f"nobody is logged in: commands act for the admin of {own}, which its master keeps "
            "fresh; to act for another account, log in with `hivemind account login NAME`"
        )

    async def leave(client: "Client") -> str:
        await client.logout()
        client.forget()
        return client.address

    say(f"logged out of {with_client(leave)}")


@click.command(cls=Command)
@json_option
def whoami(as_json: bool) -> None:
    """Show which account your commands act for, and where."""
    from hivemind.cli.output import output_for
    from hivemind.cli.session import with_client
    from hivemind.core.messages import Identity

    async def ask(client: "Client") -> tuple[Identity, str]:
        return await client.whoami(), client.address

    identity, address = with_client(ask)
    output_for(as_json).identity(identity, address)


@click.command(cls=Command)
@click.option("--ttl", "ttl_s", type=DURATION, help="How long it is good for, such as 24h.")
@json_option
def invite(ttl_s: float | None, as_json: bool) -> None:
    """Print a one-time code with which somebody may make an account."""
    from hivemind.cli.output import output_for
    from hivemind.cli.session import with_client

    secret = with_client(lambda client: client.create_invite(ttl_s or 0.0))
    output_for(as_json).secret("invite", secret)


@click.command(cls=Command)
@click.option(
    "--node",
    "node_id",
    required=True,
    metavar="NODE",
    help="A node of yours: its id, or a name that only one of yours has.",
)
@click.option("--ttl", "ttl_s", type=DURATION, help="How long it is good for, such as 1h.")
@click.option(
    "--for", "account_name", default="", metavar="ACCOUNT", help="Whom it lets in.  [default: you]"
)
@json_option
def token(node_id: str, ttl_s: float | None, account_name: str, as_json: bool) -> None:
    """Print a token with which one of your nodes can be called directly, without the master.

    Nothing else takes it, so the node never sees what could spend an account.
    """
    from hivemind.cli.output import output_for
    from hivemind.cli.session import with_client

    secret = with_client(
        lambda client: client.create_node_token(node_id, ttl_s or 0.0, account_name)
    )
    output_for(as_json).secret("node_token", secret)


@click.command(cls=Command)
@click.argument("text", metavar="TOKEN")
def revoke(text: str) -> None:
    """Make a token worthless: one of yours, or one that lets somebody into a node of yours.

    `-` reads it from standard input. Nodes know it when they next hear from the master.
    """
    from hivemind.cli.output import say
    from hivemind.cli.session import with_client

    taken = sys.stdin.read(_MOST_TOKEN_CHARS).strip() if text == "-" else text
    with_client(lambda client: client.revoke_token(taken))
    say("the token is revoked; a node that is away knows it when it is back")


@click.command(cls=Command)
@click.argument("name", metavar="NAME")
@click.argument("role", metavar="user|provider|admin")
def role(name: str, role: str) -> None:
    """Let an account do more, or less; for admins."""
    from hivemind.cli.output import say
    from hivemind.cli.session import with_client
    from hivemind.core.records import Role

    if role not in set(Role):
        raise click.UsageError(f"{role!a} is not a role: there are {', '.join(Role)}")
    with_client(lambda client: client.set_role(name, Role(role)))
    say(f"account {name} is {role} now")


@click.command(name="rotate-keys", cls=Command)
@click.option(
    "--grace",
    "grace_s",
    type=DURATION,
    help="How long tokens of the old key are still believed; 0 for not at all.",
)
def rotate_keys(grace_s: float | None) -> None:
    """Have tokens signed with a new key from now on; for admins.

    Whoever holds a token of the old key must log in again within the grace, if the token has not
    expired before.
    """
    import time

    from hivemind.cli.output import say
    from hivemind.cli.session import with_client

    until = with_client(lambda client: client.rotate_keys(grace_s))
    if until <= time.time():
        say("tokens are signed with a new key; nobody believes the old ones, log in again")
    else:
        shown = time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(until))
        say(f"tokens are signed with a new key; the old ones are believed until {shown}")


def _password(name: str, *, from_stdin: bool, is_new: bool) -> str:
    """Asked for on the terminal, twice where it is new, or read from standard input."""
    from hivemind.cli.faults import CommandFailed

    if from_stdin:
        return _password_from_stdin()
    if not sys.stdin.isatty():
        raise CommandFailed("no terminal to ask for the password on; use --password-stdin")
    return str(
        click.prompt(f"Password for {name}", hide_input=True, confirmation_prompt=is_new, err=True)
    )


def _password_from_stdin() -> str:
    """The whole input but its last newline, so that a password may hold anything else."""
    from hivemind.cli.faults import CommandFailed

    data = sys.stdin.buffer.read(_MOST_PASSWORD_BYTES + 1)
    try:
        password = data.removesuffix(b"\n").removesuffix(b"\r").decode()
    except UnicodeDecodeError as error:
        raise CommandFailed("the password on standard input is not UTF-8") from error
    if not password or len(data) > _MOST_PASSWORD_BYTES:
        raise CommandFailed("standard input holds no password, or one that is far too long")
    return password
