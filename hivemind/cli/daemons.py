"""Commands that run a daemon: ``up``, ``master`` and ``worker``."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from hivemind.cli.lazy import Command
from hivemind.cli.tls_options import peer_tls_options, server_tls_options

if TYPE_CHECKING:
    from hivemind.cli.serving import Running
    from hivemind.settings.daemon import MasterConfig, WorkerConfig

C = TypeVar("C")

_LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104

_config_option = click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Settings in TOML; flags win over it.",
)
_home_option = click.option(
    "--home",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where it keeps everything.  [default: $HIVEMIND_HOME, else the user's data folder]",
)
_listen_option = click.option(
    "--listen",
    metavar="HOST:PORT",
    help="Where clients and workers reach it; port 0 takes a free one.  [default: 127.0.0.1:50051]",
)
_slots_option = click.option(
    "--slots",
    type=click.IntRange(min=1),
    metavar="N",
    help="How many tasks may run at once.  [default: one for each CPU]",
)
_limits_option = click.option(
    "--limits",
    type=click.Choice(["cgroup", "best-effort"]),
    help="How limits are enforced; best-effort is for machines that give no cgroup.",
)


@click.command(cls=Command)
@_home_option
@_listen_option
@_slots_option
@_limits_option
@server_tls_options
def up(
    home: Path | None, listen: str | None, slots: int | None, limits: str | None, **tls: object
) -> int:
    """Start a whole pool here: a master, and one worker beside it.

    Prints `ready HOST:PORT` when tasks can be run. The first SIGTERM or Ctrl-C lets what runs end,
    a second one stops at once.
    """
    import os

    from hivemind.settings.daemon import load_master_config, load_worker_config

    def load() -> "tuple[MasterConfig, WorkerConfig]":
        offered = {"home": home, "master": "127.0.0.1:1", "slots": slots, "limits": limits}
        return (
            load_master_config(None, {"home": home, "listen": listen, **tls}),
            # How to speak to the master beside it is in the home's credentials.
            load_worker_config(None, offered, _without_tls(os.environ)),
        )

    config, worker_config = _loaded(load)
    _enter_own_cgroup(worker_config)
    return _serve(lambda: _open_up(config, worker_config), config)


@click.command(cls=Command)
@_config_option
@_home_option
@_listen_option
@server_tls_options
@click.option(
    "--tls-clients",
    type=click.Choice(["optional", "required"]),
    help="Whether people, too, must show a certificate of --tls-ca.  [default: optional]",
)
def master(config_file: Path | None, home: Path | None, listen: str | None, **tls: object) -> int:
    """Start a master. Workers join it with a token of `hivemind node token`.

    Prints `ready HOST:PORT` when it can be called.
    """
    from hivemind.settings.daemon import load_master_config

    flags = {"home": home, "listen": listen, **tls}
    config = _loaded(lambda: load_master_config(config_file, flags))
    return _serve(lambda: _open_master(config), config)


@click.command(cls=Command)
@_config_option
@_home_option
@click.option("--master", "master_address", metavar="HOST:PORT", help="The pool's master.")
@click.option(
    "--join",
    "join_token",
    metavar="TOKEN",
    help="A token of `hivemind node token`, needed the first time.",
)
@click.option(
    "--listen",
    metavar="HOST:PORT",
    help="Where it can be called directly; port 0 takes a free one.  [default: 127.0.0.1:0]",
)
@_slots_option
@_limits_option
@peer_tls_options
def worker(
    config_file: Path | None,
    home: Path | None,
    master_address: str | None,
    join_token: str | None,
    listen: str | None,
    slots: int | None,
    limits: str | None,
    **tls: object,
) -> int:
    """Start a worker, which runs a pool's tasks on this machine.

    Prints `ready HOST:PORT`, where it can be called directly, when the master has let it in. With
    --listen and no master it is used directly alone.
    """
    import os

    from hivemind.settings.daemon import MASTER_VARIABLE, load_worker_config

    if not (master_address or listen or config_file or os.environ.get(MASTER_VARIABLE)):
        raise click.UsageError(
            f"no master is named: give --master, or set {MASTER_VARIABLE}; or give --listen, for "
            "a worker without one"
        )
    flags = {
        "home": home,
        "master": master_address,
        "join_token": join_token,
        "listen": listen,
        "slots": slots,
        "limits": limits,
        **tls,
    }
    config = _loaded(lambda: load_worker_config(config_file, flags))
    _enter_own_cgroup(config)
    return _serve(lambda: _open_worker(config), config)


def _without_tls(environ: Mapping[str, str]) -> Mapping[str, str]:
    from hivemind.settings.daemon import TLS_CA_VARIABLE, TLS_CERT_VARIABLE, TLS_KEY_VARIABLE

    other = {TLS_CA_VARIABLE, TLS_CERT_VARIABLE, TLS_KEY_VARIABLE}
    return {key: value for key, value in environ.items() if key not in other}


def _loaded(load: Callable[[], C]) -> C:
    """The configuration. Misuse, where it comes from a flag."""
    from hivemind.cli.faults import CommandFailed
    from hivemind.settings.errors import SettingsError

    try:
        return load()
    except SettingsError as error:
        text = str(error)
        raise CommandFailed(text, status=2 if text.startswith("--") else None) from error


def _enter_own_cgroup(config: "WorkerConfig") -> None:
    from hivemind.cli.own_cgroup import enter_own_cgroup

    if config.limits == "cgroup":
        enter_own_cgroup()


def _serve(
    open_running: "Callable[[], AbstractAsyncContextManager[Running]]",
    config: "MasterConfig | WorkerConfig",
) -> int:
    import trio

    from hivemind.cli.faults import CommandFailed
    from hivemind.cli.log_setup import set_up_logs
    from hivemind.cli.serving import serve_until_signalled

    set_up_logs(config.log_format, config.log_level)
    try:
        return trio.run(serve_until_signalled, open_running)
    except* _foreseen() as group:
        failure: BaseException = group
    while isinstance(failure, BaseExceptionGroup):
        failure = failure.exceptions[0]
    raise CommandFailed(str(failure))


def _foreseen() -> tuple[type[Exception], ...]:
    """What daemons raise for people, each with a text that says what to do."""
    from hivemind.rpc.errors import RpcError
    from hivemind.settings.errors import SettingsError
    from hivemind.store.api import StoreError
    from hivemind.supervision import SupervisionError
    from hivemind.worker.errors import WorkerError

    return (RpcError, SettingsError, StoreError, SupervisionError, WorkerError)


@asynccontextmanager
async def _open_master(config: "MasterConfig") -> "AsyncIterator[Running]":
    from hivemind.cli.serving import Running
    from hivemind.master.app import open_master

    async with open_master(config) as daemon:
        yield Running(daemon.address, [daemon])


@asynccontextmanager
async def _open_worker(config: "WorkerConfig") -> "AsyncIterator[Running]":
    from hivemind.cli.serving import Running
    from hivemind.worker.app import open_worker

    async with open_worker(config) as daemon:
        yield Running(daemon.address, [daemon])


@asynccontextmanager
async def _open_up(
    master_config: "MasterConfig", worker_config: "WorkerConfig"
) -> "AsyncIterator[Running]":
    """The master, then a worker that joins it as the first admin; the worker drains first."""
    import attrs

    from hivemind.cli.serving import Running
    from hivemind.master.app import open_master
    from hivemind.settings.credentials import read_credentials
    from hivemind.worker.app import open_worker

    async with open_master(master_config) as head:
        admin = read_credentials(master_config.home)
        host, port = head.address
        joining = attrs.evolve(
            worker_config,
            master=(_LOOPBACK.get(host, host), port),
            join_token=None if admin is None else admin.token,
        )
        async with open_worker(joining) as hand:
            yield Running(head.address, [hand, head])
