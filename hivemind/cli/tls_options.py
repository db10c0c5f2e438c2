"""The options that say how a daemon or a command speaks over the network."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def _file(flag: str, text: str) -> Callable[[F], F]:
    return click.option(flag, type=click.Path(path_type=Path), metavar="FILE", help=text)


def _plaintext(text: str) -> Callable[[F], F]:
    return click.option("--allow-plaintext", is_flag=True, default=None, help=text)


def server_tls_options(function: F) -> F:
    """For what others connect to."""
    for decorate in (
        _plaintext(
            "Listen where others can reach it without a certificate, although anybody on the "
            "network may then read passwords and tokens."
        ),
        _file(
            "--tls-ca", "The authority of workers' certificates: a worker without one is refused."
        ),
        _file("--tls-key", "The key of --tls-cert, in PEM."),
        _file(
            "--tls-cert", "The certificate to be known by, in PEM; `hivemind tls init` makes one."
        ),
    ):
        function = decorate(function)
    return function


def peer_tls_options(function: F) -> F:
    """For what connects to a master."""
    for decorate in (
        _plaintext(
            "Speak to a master on another machine without a certificate, although anybody on the "
            "way may then read tokens."
        ),
        _file("--tls-key", "The key of --tls-cert, in PEM."),
        _file("--tls-cert", "A certificate to show a master that asks for one, in PEM."),
        _file("--tls-ca", "The master's certificate, or its authority's, in PEM."),
    ):
        function = decorate(function)
    return function
