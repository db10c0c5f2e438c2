"""The asynchronous client: ``open_client`` and what it gives."""

import contextlib
import os
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import trio

from hivemind.client.connection import Connection, Patience, tls_for
from hivemind.client.results import fetch_result
from hivemind.client.sources import Source, bytes_source, file_source
from hivemind.client.submitting import OnSent, send_submission
from hivemind.client.target import Manner, find_target, forget_login, save_login
from hivemind.client.watching import follow
from hivemind.core.admission import Ask
from hivemind.core.explanation import Explanation
from hivemind.core.messages import (
    Balance,
    HistoryEntry,
    Identity,
    ListQuery,
    NodeView,
    Secret,
    TaskDetail,
    Transferred,
    WatchItem,
    WatchQuery,
)
from hivemind.core.prices import Quote
from hivemind.core.records import OutputStream, Role, Task
from hivemind.rpc.contract.accounts import AccountsClient
from hivemind.rpc.contract.credits import CreditsClient
from hivemind.rpc.contract.nodes import NodesClient
from hivemind.rpc.contract.tasks import TasksClient

if TYPE_CHECKING:
    from hivemind.client.programs import Program

Stdin = bytes | Path | None


@attrs.frozen(kw_only=True)
class Finished:
    """A task that has ended, with the output of its last attempt."""

    task: Task
    stdout: bytes
    stderr: bytes


@asynccontextmanager
async def open_client(
    address: str | None = None,
    token: str | None = None,
    home: Path | None = None,
    *,
    tls_ca: Path | None = None,
    tls_cert: Path | None = None,
    tls_key: Path | None = None,
    allow_plaintext: bool = False,
    patience: Patience | None = None,
) -> AsyncIterator["Client"]:
    """A client of one pool; leaving the block closes its connection.

    Nothing is connected before the first call. A connection that is lost later is opened again, and
    what can safely be repeated is, for as long as ``patience`` lasts.

    Args:
        address: ``HOST:PORT`` of the master; else HIVEMIND_MASTER, else the home's credentials.
        token: the account's; else HIVEMIND_TOKEN, else the home's credentials.
        home: whose ``credentials.toml`` to read; else HIVEMIND_HOME, else the user's data folder.
        tls_ca: a file of certificates in PEM, the master's own or its authority's; else
            HIVEMIND_TLS_CA, else what the home's credentials say. Without one, the master is spoken
            to in plain HTTP/2, on this machine alone.
        tls_cert: a certificate to show a master that asks for one; else HIVEMIND_TLS_CERT, else
            what the home's credentials say.
        tls_key: the key of ``tls_cert``; else HIVEMIND_TLS_KEY.
        allow_plaintext: speak to a master on another machine without TLS, although anybody on the
            way may read the token; else HIVEMIND_ALLOW_PLAINTEXT.
        patience: how long a lost master is waited for.

    Raises:
        ClientError: no address is known, or it is none; NotTrusted where the certificates cannot be
            used.
    """
    manner = Manner(
        tls_ca=tls_ca, tls_cert=tls_cert, tls_key=tls_key, allow_plaintext=allow_plaintext
    )
    target = find_target(address, token, home, manner)
    tls = tls_for(target)
    block_error: Exception | None = None
    async with trio.open_nursery() as connections:
        connection = Connection(target, tls, patience or Patience(), connections)
        try:
            yield Client(connection, home)
        except Exception as error:
            # Raised again below, outside the nursery, which would wrap it in a group.
            block_error = error
        finally:
            connection.close()
    if block_error is not None:
        raise block_error


class Client:
    """What an account can do in a pool. Made by ``open_client``.

    Every method raises the ClientError family. Cancelling one abandons the call: whether the master
    acted on it is then not known, but for reads.
    """

    def __init__(self, connection: Connection, home: Path | None) -> None:
        self._connection = connection
        self._home = home

    @property
    def address(self) -> str:
        """``HOST:PORT`` of the master."""
        return self._connection.target.address

    # --- tasks ----------------------------------------------------------------------------------

    async def submit(
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
        """Submit a script, a folder or an archive at ``source``, or a ``command``; the task's id.

        The id is told once the task is on the master's disk, and a lost connection never makes a
        second task.

        Args:
            source: a path; exactly one of it and ``command`` is given.
            command: a whole command line.
            args: arguments for what ``source`` holds.
            ask: limits and the like; what it says wins over what the program's own file says.
            env: variables of the task's environment.
            name: for listings.
            stdin: the task's standard input: bytes, or a file to read them from.
        """
        program = _program(source, command, args, ask or Ask(), env or {}, name)
        return await self.submit_program(program, stdin=_stdin_source(stdin))

    async def submit_program(
        self, program: "Program", *, stdin: Source | None = None, on_sent: OnSent | None = None
    ) -> str:
        """As ``submit``, for a program looked at before; ``on_sent`` hears the progress."""
        self._connection.require_token()
        return await send_submission(self._connection, program, stdin, on_sent)

    async def quote(
        self,
        source: str | os.PathLike[str] | None = None,
        *,
        command: Sequence[str] = (),
        ask: Ask | None = None,
    ) -> Quote:
        """What a submit of this would hold at most, and the price of a minute; nothing is sent but
        what is asked for.
        """
        return await self.quote_program(_program(source, command, (), ask or Ask(), {}, ""))

    async def quote_program(self, program: "Program") -> Quote:
        """As ``quote``, for a program looked at before."""
        self._connection.require_token()
        return await self._connection.call(
            lambda channel: TasksClient(channel).quote(program.submission)
        )

    def watch(
        self, task_id: str, *, output: bool = True, until_now: bool = False
    ) -> AsyncGenerator[WatchItem, None]:
        """The task as it is, then its changes and output, until all of an ended task was given.

        With ``until_now`` only what is known now. A lost connection costs nothing: no output is
        lost or given twice. Close it with aclosing.
        """
        self._connection.require_token()
        query = WatchQuery(task_id=task_id, output=output, until_now=until_now)
        return follow(self._connection, query)

    async def wait(self, task_id: str) -> Task:
        """The task, once it has ended."""
        async with aclosing(self.watch(task_id, output=False)) as items:
            async for item in items:
                if isinstance(item, Task) and item.state.is_end:
                    return item
        raise AssertionError("a watch ends with an ended task")

    async def run(
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
        """Submit, wait, and give back the ended task with its output. Cancelling stops the task."""
        task_id = await self.submit(
            source, command=command, args=args, ask=ask, env=env, name=name, stdin=stdin
        )
        try:
            return await self._collect(task_id)
        except trio.Cancelled:
            with trio.move_on_after(STOP_S, shield=True), contextlib.suppress(Exception):
                await self.stop(task_id)
            raise

    async def _collect(self, task_id: str) -> Finished:
        streams = {OutputStream.STDOUT: bytearray(), OutputStream.STDERR: bytearray()}
        attempt = 0
        task: Task | None = None
        async with aclosing(self.watch(task_id)) as items:
            async for item in items:
                if isinstance(item, Task):
                    task = item
                    continue
                if item.attempt != attempt:
                    attempt = item.attempt
                    for held in streams.values():
                        held.clear()
                streams[item.chunk.stream] += item.chunk.data
        assert task is not None  # noqa: S101
        return Finished(
            task=task,
            stdout=bytes(streams[OutputStream.STDOUT]),
            stderr=bytes(streams[OutputStream.STDERR]),
        )

    async def get(self, task_id: str) -> TaskDetail:
        """The task with its attempts."""
        self._connection.require_token()
        return await self._connection.call(lambda channel: TasksClient(channel).get(task_id))

    async def list(
        self, *, include_ended: bool = False, account: str = ""
    ) -> AsyncGenerator[Task, None]:
        """One's tasks, newest first, fetched page by page as they are read.

        An admin may name another ``account``, or ``*`` for everybody's.
        """
        self._connection.require_token()
        query = ListQuery(account=account, include_ended=include_ended)
        while True:
            page = await self._connection.call(
                lambda channel, asked=query: TasksClient(channel).list(asked)  # type: ignore[misc]
            )
            for task in page.tasks:
                yield task
            if not page.next_cursor:
                return
            query = attrs.evolve(query, cursor=page.next_cursor)

    async def stop(self, task_id: str) -> Task:
        """Ask for the task's end; return once that is on disk. ``wait`` tells when it is over"""
        self._connection.require_token()
        return await self._connection.call(lambda channel: TasksClient(channel).stop(task_id))

    async def explain(self, task_id: str) -> Explanation:
        """Why the task is where it is."""
        self._connection.require_token()
        return await self._connection.call(lambda channel: TasksClient(channel).explain(task_id))

    async def download(self, task_id: str, path: Path) -> None:
        """Put the result's zip at ``path``, whole or not at all."""
        self._connection.require_token()
        await fetch_result(self._connection, task_id, path)

    # --- nodes ----------------------------------------------------------------------------------

    async def nodes(self) -> AsyncGenerator[NodeView, None]:
        """The pool's machines, fetched page by page as they are read."""
        self._connection.require_token()
        cursor = ""
        while True:
            page = await self._connection.call(
                lambda channel, asked=cursor: NodesClient(channel).list_nodes(asked)  # type: ignore[misc]
            )
            for node in page.nodes:
                yield node
            cursor = page.next_cursor
            if not cursor:
                return

    async def drain_node(self, node: str) -> NodeView:
        """Have the node of this id or name given nothing more; what it runs goes on."""
        self._connection.require_token()
        return await self._connection.call(lambda channel: NodesClient(channel).drain(node))

    async def resume_node(self, node: str) -> NodeView:
        """Have it given work again."""
        self._connection.require_token()
        return await self._connection.call(lambda channel: NodesClient(channel).resume(node))

    async def forget_node(self, node: str) -> str:
        """Strike it off the pool's list, and run elsewhere what it runs; its id."""
        self._connection.require_token()
        return await self._connection.call(
            lambda channel: NodesClient(channel).forget(node), repeatable=False
        )

    # --- accounts -------------------------------------------------------------------------------

    async def register(self, name: str, password: str, invite: str = "") -> None:
        """Make an account; where the pool asks for an invitation, with its code."""
        await self._connection.call(
            lambda channel: AccountsClient(channel).register(name, password, invite),
            repeatable=False,
        )

    async def login(self, name: str, password: str) -> str:
        """A token for the account, good for a day or whatever the pool says."""
        return await self._connection.call(
            lambda channel: AccountsClient(channel).login(name, password)
        )

    def remember(self, account: str, token: str) -> None:
        """Keep a login in the home, for clients that are opened later."""
        save_login(self._home, self._connection.target, account, token)

    def forget(self) -> None:
        """Drop this client's token from the home, if it was kept there by ``remember``."""
        forget_login(self._home, self._connection.target.token)

    async def logout(self) -> None:
        """Revoke this client's token."""
        self._connection.require_token()
        await self._connection.call(
            lambda channel: AccountsClient(channel).logout(), repeatable=False
        )

    async def whoami(self) -> Identity:
        """Who the pool takes this client for."""
        self._connection.require_token()
        return await self._connection.call(lambda channel: AccountsClient(channel).whoami())

    async def create_join_token(self, ttl_s: float = 0.0) -> Secret:
        """A one-time secret with which a worker joins for this account; 0 is the pool's default."""
        self._connection.require_token()
        return await self._connection.call(
            lambda channel: AccountsClient(channel).create_join_token(ttl_s)
        )

    async def create_invite(self, ttl_s: float = 0.0) -> Secret:
        """A one-time code with which somebody may register; 0 is the pool's default."""
        self._connection.require_token()
        return await self._connection.call(
            lambda channel: AccountsClient(channel).create_invite(ttl_s)
        )

    async def create_node_token(
        self, node_id: str, ttl_s: float = 0.0, account: str = ""
    ) -> Secret:
        """A token with which an account may call one node of one's own directly.

        Args:
            node_id: the node, the only one that will take the token.
            ttl_s: how long it is good for; 0 is the pool's default.
            account: whom it lets in; this account, unless said.
        """
        self._connection.require_token()
        return await self._connection.call(
            lambda channel: AccountsClient(channel).create_node_token(node_id, ttl_s, account)
        )

    async def revoke_token(self, token: str) -> None:
        """Take back a token of one's own, or one that lets somebody into a node of one's own."""
        self._connection.require_token()
        await self._connection.call(lambda channel: AccountsClient(channel).revoke_token(token))

    async def set_role(self, account: str, role: Role) -> None:
        """Let an account do more, or less; for admins."""
        self._connection.require_token()
        await self._connection.call(lambda channel: AccountsClient(channel).set_role(account, role))

    async def rotate_keys(self, grace_s: float | None = None) -> float:
        """Have tokens signed with a new key; until when those of the old one are believed.

        For admins. Without ``grace_s`` the pool's rules say how long that is.
        """
        self._connection.require_token()
        return await self._connection.call(
            lambda channel: AccountsClient(channel).rotate_keys(grace_s), repeatable=False
        )

    # --- CPT ------------------------------------------------------------------------------------

    async def balance(self, account: str = "") -> Balance:
        """What one has, in millionths of a CPT; an admin may name another account."""
        self._connection.require_token()
        return await self._connection.call(lambda channel: CreditsClient(channel).balance(account))

    async def history(self, account: str = "") -> AsyncGenerator[HistoryEntry, None]:
        """What one gave and got, newest first, fetched page by page as it is read.

        An admin may name another account.
        """
        self._connection.require_token()
        cursor = ""
        while True:
            page = await self._connection.call(
                lambda channel, asked=cursor: CreditsClient(channel).history(account, asked)  # type: ignore[misc]
            )
            for entry in page.entries:
                yield entry
            cursor = page.next_cursor
            if not cursor:
                return

    async def transfer(
        self, receiver: str, amount_ucpt: int, *, key: str = "", memo: str = ""
    ) -> Transferred:
        """Give so many millionths of a CPT to another account; return once that is on disk.

        A lost connection never makes a second transfer. With a ``key`` of one's own it may also be
        called again, later, and is made once.
        """
        self._connection.require_token()
        chosen = key or secrets.token_hex(16)
        return await self._connection.call(
            lambda channel: CreditsClient(channel).transfer(
                receiver, amount_ucpt, key=chosen, memo=memo
            )
        )


STOP_S = 5.0
"""How long a cancelled ``run`` may take to tell the master to stop the task."""


def _program(
    source: str | os.PathLike[str] | None,
    command: Sequence[str],
    args: Sequence[str],
    ask: Ask,
    env: Mapping[str, str],
    name: str,
) -> "Program":
    # Archives and their compressions take tens of milliseconds to import; few calls need them.
    from hivemind.client.programs import program_from_command, program_from_path

    if (source is None) == (not command):
        raise TypeError("give a source or a command, and not both")
    if source is None:
        return program_from_command((*command, *args), ask=ask, env=env, name=name)
    return program_from_path(source, args=args, ask=ask, env=env, name=name)


def _stdin_source(stdin: Stdin) -> Source | None:
    if stdin is None:
        return None
    return bytes_source(stdin) if isinstance(stdin, bytes) else file_source(stdin)
