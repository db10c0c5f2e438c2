"""The client for programs without Trio: each method runs Trio for as long as its call takes.

    from hivemind.client.blocking import BlockingClient

    finished = BlockingClient().run("hello.py")
    print(finished.stdout.decode())

A method opens a connection of its own. Interrupting ``run`` stops the task.
"""

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import TypeVar

import attrs
import trio

from hivemind.client.client import Client, Finished, Stdin, open_client
from hivemind.core.admission import Ask
from hivemind.core.explanation import Explanation
from hivemind.core.messages import (
    Balance,
    HistoryEntry,
    Identity,
    NodeView,
    Secret,
    TaskDetail,
    Transferred,
    WatchItem,
)
from hivemind.core.prices import Quote
from hivemind.core.records import Role, Task

T = TypeVar("T")


@attrs.frozen
class BlockingClient:
    """As ``client.Client``, whose methods say what they do, take, return and raise.

    The fields are ``open_client``'s arguments.
    """

    address: str | None = None
    token: str | None = attrs.field(default=None, repr=False)
    home: Path | None = None
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    allow_plaintext: bool = False

    def submit(
        self,
        source: str | os.PathLike[str] | None = None,
        *,
        command: Sequence[str] = (),
        args: Sequence[str] = (),
        ask: Ask | None = None,
        env: Mapping[str, str] | None = None,
        name: str = "",
        stdin: Stdin = None,
    ) -> str:
        """Submit a program; the task's id."""
        return self._with(
            lambda client: client.submit(
                source, command=command, args=args, ask=ask, env=env, name=name, stdin=stdin
            )
        )

    def run(
        self,
        source: str | os.PathLike[str] | None = None,
        *,
        command: Sequence[str] = (),
        args: Sequence[str] = (),
        ask: Ask | None = None,
        env: Mapping[str, str] | None = None,
        name: str = "",
        stdin: Stdin = None,
    ) -> Finished:
        """Submit a program and wait for its end and output."""
        return self._with(
            lambda client: client.run(
                source, command=command, args=args, ask=ask, env=env, name=name, stdin=stdin
            )
        )

    def quote(
        self,
        source: str | os.PathLike[str] | None = None,
        *,
        command: Sequence[str] = (),
        ask: Ask | None = None,
    ) -> Quote:
        """What a submit of this would hold at most, and the price of a minute."""
        return self._with(lambda client: client.quote(source, command=command, ask=ask))

    def watch(
        self, task_id: str, on_item: Callable[[WatchItem], None], *, until_now: bool = False
    ) -> None:
        """Call ``on_item`` with the task, its changes and its output until it has ended.

        What ``on_item`` raises ends the watch and is raised here.
        """

        async def watch(client: Client) -> None:
            async with aclosing(client.watch(task_id, until_now=until_now)) as items:
                async for item in items:
                    on_item(item)

        self._with(watch)

    def wait(self, task_id: str) -> Task:
        """The task, once it has ended."""
        return self._with(lambda client: client.wait(task_id))

    def get(self, task_id: str) -> TaskDetail:
        """The task with its attempts."""
        return self._with(lambda client: client.get(task_id))

    def list(self, *, include_ended: bool = False, account: str = "") -> "tuple[Task, ...]":
        """One's tasks, newest first."""

        async def fetch(client: Client) -> tuple[Task, ...]:
            tasks = client.list(include_ended=include_ended, account=account)
            return tuple([task async for task in tasks])

        return self._with(fetch)

    def stop(self, task_id: str) -> Task:
        """Ask for the task's end."""
        return self._with(lambda client: client.stop(task_id))

    def explain(self, task_id: str) -> Explanation:
        """Why the task is where it is."""
        return self._with(lambda client: client.explain(task_id))

    def download(self, task_id: str, path: Path) -> None:
        """Put the result's zip at ``path``, whole or not at all."""
        return self._with(lambda client: client.download(task_id, path))

    def nodes(self) -> tuple[NodeView, ...]:
        """The pool's machines."""

        async def fetch(client: Client) -> tuple[NodeView, ...]:
            return tuple([node async for node in client.nodes()])

        return self._with(fetch)

    def drain_node(self, node: str) -> NodeView:
        """Have the node of this id or name given nothing more; what it runs goes on."""
        return self._with(lambda client: client.drain_node(node))

    def resume_node(self, node: str) -> NodeView:
        """Have it given work again."""
        return self._with(lambda client: client.resume_node(node))

    def forget_node(self, node: str) -> str:
        """Strike it off the pool's list, and run elsewhere what it runs; its id."""
        return self._with(lambda client: client.forget_node(node))

    def register(self, name: str, password: str, invite: str = "") -> None:
        """Make an account."""
        return self._with(lambda client: client.register(name, password, invite))

    def login(self, name: str, password: str) -> str:
        """A token for the account."""
        return self._with(lambda client: client.login(name, password))

    def logout(self) -> None:
        """Revoke this client's token."""
        return self._with(lambda client: client.logout())

    def whoami(self) -> Identity:
        """Who the pool takes this client for."""
        return self._with(lambda client: client.whoami())

    def create_join_token(self, ttl_s: float = 0.0) -> Secret:
        """A one-time secret with which a worker joins for this account."""
        return self._with(lambda client: client.create_join_token(ttl_s))

    def create_invite(self, ttl_s: float = 0.0) -> Secret:
        """A one-time code with which somebody may register."""
        return self._with(lambda client: client.create_invite(ttl_s))

    def create_node_token(self, node_id: str, ttl_s: float = 0.0, account: str = "") -> Secret:
        """A token with which an account may call one node of one's own directly."""
        return self._with(lambda client: client.create_node_token(node_id, ttl_s, account))

    def revoke_token(self, token: str) -> None:
        """Take back a token of one's own, or one that lets somebody into a node of one's own."""
        return self._with(lambda client: client.revoke_token(token))

    def set_role(self, account: str, role: Role) -> None:
        """Let an account do more, or less; for admins."""
        return self._with(lambda client: client.set_role(account, role))

    def rotate_keys(self, grace_s: float | None = None) -> float:
        """Have tokens signed with a new key; until when those of the old one are believed."""
        return self._with(lambda client: client.rotate_keys(grace_s))

    def balance(self, account: str = "") -> Balance:
        """What one has, in millionths of a CPT."""
        return self._with(lambda client: client.balance(account))

    def history(self, account: str = "") -> tuple[HistoryEntry, ...]:
        """What one gave and got, newest first."""

        async def fetch(client: Client) -> tuple[HistoryEntry, ...]:
            return tuple([entry async for entry in client.history(account)])

        return self._with(fetch)

    def transfer(
        self, receiver: str, amount_ucpt: int, *, key: str = "", memo: str = ""
    ) -> Transferred:
        """Give so many millionths of a CPT to another account."""
        return self._with(lambda client: client.transfer(receiver, amount_ucpt, key=key, memo=memo))

    def _with(self, work: Callable[[Client], Awaitable[T]]) -> T:
        async def main() -> T:
            async with open_client(
                self.address,
                self.token,
                self.home,
                tls_ca=self.tls_ca,
                tls_cert=self.tls_cert,
                tls_key=self.tls_key,
                allow_plaintext=self.allow_plaintext,
            ) as client:
                return await work(client)

        return trio.run(main)
