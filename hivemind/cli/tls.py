"""``hivemind tls``: make a small authority and the certificates of a pool. No master is asked."""

import shlex
import socket
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, TypeVar

import click

from hivemind.cli.lazy import Command, LazyGroup

T = TypeVar("T")

_DAYS = 365
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


class _TlsCommands(LazyGroup):
    commands_at: ClassVar = {
        "init": "hivemind.cli.tls:init",
        "issue": "hivemind.cli.tls:issue",
    }


@click.group(cls=_TlsCommands)
def tls() -> None:
    """Make the certificates of a pool."""


_days_option = click.option(
    "--days",
    type=click.IntRange(1, 36500),
    default=_DAYS,
    show_default=True,
    metavar="N",
    help="How long the certificate is good for.",
)
_force_option = click.option("--force", is_flag=True, help="Replace what is there.")


@click.command(cls=Command)
@click.argument("folder", metavar="[DIR]", required=False, type=click.Path(path_type=Path))
@click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="A name or address of the master; repeatable.  [default: this machine's and loopback]",
)
@_days_option
@_force_option
def init(folder: Path | None, hosts: tuple[str, ...], days: int, force: bool) -> None:
    """Make an authority and the master's certificate in a folder, by default HOME/tls.

    Prints what to do with them. Whoever has the authority's key, ca-key.pem, can make certificates
    that the whole pool trusts: keep it to yourself.
    """
    from datetime import UTC, datetime

    from hivemind.cli.output import say
    from hivemind.settings.certificates import make_authority

    where = _folder(folder)
    names = hosts or (*_own_names(), *_LOOPBACK)
    own, server = _made(
        lambda: make_authority(where, names, days=days, now=datetime.now(UTC), force=force)
    )
    ca, cert, key = (
        shlex.quote(str(path)) for path in (own.certificate, server.certificate, server.key)
    )
    say(f"made {own.certificate}, which everybody may have, and {own.key}, which nobody else may")
    say(f"made {server.certificate} for {', '.join(names)}, good for {days} days")
    say("start the master:")
    say(f"  hivemind master --listen 0.0.0.0:50051 --tls-cert {cert} --tls-key {key}")
    say("on other machines, with a copy of ca.pem:")
    say(f"  hivemind worker --master {names[0]}:50051 --tls-ca ca.pem --join TOKEN")
    say("  export HIVEMIND_TLS_CA=ca.pem")
    say(f"to let in only workers with a certificate: --tls-ca {ca} for the master, and")
    say(
        f"  hivemind tls issue{'' if folder is None else f' --dir {shlex.quote(str(folder))}'} NAME"
    )


@click.command(cls=Command)
@click.argument("name", metavar="NAME")
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where the authority is.  [default: HOME/tls]",
)
@click.option("--client", is_flag=True, help="For a person's commands: no server can use it.")
@click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="A name or address of the machine; repeatable.  [default: those that NAME has, else NAME]",
)
@_days_option
@_force_option
def issue(
    name: str, folder: Path | None, client: bool, hosts: tuple[str, ...], days: int, force: bool
) -> None:
    """Make a certificate for a worker, or for a person, in the folder of `hivemind tls init`.

    With --force it renews one that is there, for the same hosts unless they are named: `issue
    server --force` the master's, which reads it at SIGHUP.
    """
    from datetime import UTC, datetime

    from hivemind.cli.output import say
    from hivemind.settings.certificates import SERVER
    from hivemind.settings.certificates import issue as issue_certificate

    if client and hosts:
        raise click.UsageError("--host is for machines, and --client for what is none")
    pair = _made(
        lambda: issue_certificate(
            _folder(folder),
            name,
            hosts,
            days=days,
            now=datetime.now(UTC),
            for_clients_alone=client,
            force=force,
        )
    )
    cert, key = (shlex.quote(str(path)) for path in (pair.certificate, pair.key))
    say(f"made {pair.certificate} and {pair.key}, good for {days} days")
    if name == SERVER:
        say("the master reads it at SIGHUP, or at its next start")
    elif client:
        say("give them to whom they are for, who sets:")
        say(f"  export HIVEMIND_TLS_CERT={cert} HIVEMIND_TLS_KEY={key}")
    else:
        say("take them to its machine, with ca.pem, and start the worker there:")
        say(
            f"  hivemind worker --master MASTER:50051 --tls-ca ca.pem --tls-cert {name}.pem "
            f"--tls-key {name}-key.pem --join TOKEN"
        )


def _made(make: Callable[[], T]) -> T:
    from hivemind.cli.faults import CommandFailed
    from hivemind.settings.errors import SettingsError

    try:
        return make()
    except SettingsError as error:
        raise CommandFailed(str(error)) from error


def _folder(folder: Path | None) -> Path:
    from hivemind.settings.home import find_home

    return folder.absolute() if folder is not None else _made(lambda: find_home(None)) / "tls"


def _own_names() -> list[str]:
    """What the machine calls itself, where that can be the name of a host."""
    names = dict.fromkeys((socket.gethostname(), socket.getfqdn()))
    return [name for name in names if name.isascii() and name.strip(".") and name != "localhost"]
