"""Commands about CPT: what one has, what one gave and got, and what a task would cost."""

from typing import TYPE_CHECKING

import click

from hivemind.cli.lazy import Command
from hivemind.cli.options import CPT
from hivemind.cli.output import json_option

if TYPE_CHECKING:
    from hivemind.client import Client
    from hivemind.client.programs import Program
    from hivemind.core.messages import HistoryEntry


@click.command(cls=Command)
@click.argument("name", metavar="[NAME]", default="")
@json_option
def balance(name: str, as_json: bool) -> None:
    """Show what your account has, or, for admins, what another has."""
    from hivemind.cli.output import output_for
    from hivemind.cli.session import with_client

    output_for(as_json).balance(with_client(lambda client: client.balance(name)))


@click.command(cls=Command)
@click.argument("name", metavar="NAME")
@click.argument("amount_ucpt", metavar="AMOUNT", type=CPT)
@click.option(
    "--key",
    default="",
    metavar="TEXT",
    help="Make it once, however often you repeat it with this key.",
)
@click.option("--memo", default="", metavar="TEXT", help="What it is for; both accounts see it.")
def transfer(name: str, amount_ucpt: int, key: str, memo: str) -> None:
    """Give AMOUNT of your CPT to the account NAME. It may have up to six decimals, such as 2.5."""
    from hivemind.cli.output import say
    from hivemind.cli.session import with_client
    from hivemind.core.cpt import show_cpt

    done = with_client(lambda client: client.transfer(name, amount_ucpt, key=key, memo=memo))
    what = "went before, and nothing was moved now" if done.repeated else f"went to {name}"
    say(f"{show_cpt(amount_ucpt)} {what}; you have {show_cpt(done.balance_ucpt)}")


@click.command(cls=Command)
@click.argument("name", metavar="[NAME]", default="")
@json_option
def history(name: str, as_json: bool) -> None:
    """List what your account gave and got, newest first; for admins, what another did."""
    from hivemind.cli.output import output_for
    from hivemind.cli.session import with_client

    async def fetch(client: "Client") -> "list[HistoryEntry]":
        return [entry async for entry in client.history(name)]

    output_for(as_json).history(with_client(fetch))


def tell_quote(program: "Program") -> None:
    """Say what the program would cost if it were submitted now. Raises ClientError."""
    from hivemind.cli.output import say
    from hivemind.cli.session import with_client
    from hivemind.core.cpt import show_cpt
    from hivemind.core.prices import Means, show_rate

    quote = with_client(lambda client: client.quote_program(program))
    most, has = show_cpt(quote.most_ucpt), show_cpt(quote.balance_ucpt)
    most_wanted = program.submission.ask.max_ucpt
    if quote.means is Means.OWN_NODES:
        say(f"nothing, on your own nodes alone; on others {most} at most: {show_rate(quote)}")
    elif quote.means is Means.NONE:
        say(f"{most} at most: {show_rate(quote)}; you have {has}, so that it would be refused")
    elif most_wanted is not None and quote.hold_ucpt > most_wanted:
        allowed = show_cpt(most_wanted)
        say(f"{most} at most: {show_rate(quote)}; you allow {allowed}: it would be refused")
    else:
        say(f"{most} at most: {show_rate(quote)}; you have {has}")
