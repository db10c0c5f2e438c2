"""The Tasks service: submit, look, watch, stop, and fetch the result."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing

import attrs
import structlog
import trio

from hivemind.core.explain import explain, explain_impossible
from hivemind.core.explanation import Explanation
from hivemind.core.ids import (
    is_task_id,
)
from hivemind.core.messages import (
    INLINE_BYTES,
    AttemptOutput,
    ListQuery,
    Submission,
    Submitted,
    TaskDetail,
    TaskList,
    UploadChunk,
    WatchItem,
    WatchQuery,
)
from hivemind.core.policy import PoolRules, Profile
from hivemind.core.prices import Quote
from hivemind.core.records import (
    Account,
    Attempt,
    Blob,
    OutputChunk,
    Role,
    Task,
    TaskSpec,
    TaskState,
)
from hivemind.master import charging, commands
from hivemind.master.bell import Bell, Bells
from hivemind.master.drafting import check_payload, draft, marked
from hivemind.master.keeping import too_much_kept
from hivemind.master.output import Follower, OutputFolder
from hivemind.master.reactor import Reactor
from hivemind.master.results import ResultParts, result_pieces
from hivemind.master.uploads import Uploaded, Uploads
from hivemind.rpc.auth import Principal
from hivemind.rpc.contract.faults import (
    NamedFault,
    Unsettled,
    denied,
    invalid,
    not_now,
    taken,
    unavailable,
)
from hivemind.rpc.contract.specs import encode_spec
from hivemind.rpc.errors import CallRefused, ErrorCode
from hivemind.rpc.reply import PIECE_BYTES, holding_reply
from hivemind.store.api import BadCursor, DuplicateTask, Store
from hivemind.store.blobs import BlobFolder
from hivemind.store.changes import NewTask

_MOST_LISTED = 200
_BATCH_FACTOR = 2
"""A batch of output is there once as it was read, and once more in the message that is sent."""
_UNFINISHED = frozenset(state for state in TaskState if not state.is_end)

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Tasks:
    """See ``rpc.contract.tasks.TaskHandlers``."""

    def __init__(
        self,
        reactor: Reactor,
        store: Store,
        *,
        profiles: Callable[[], Mapping[str, Profile]],
        rules: Callable[[], PoolRules],
        uploads: Uploads,
        blobs: BlobFolder,
        output: OutputFolder,
        bells: Bells,
        clock: Callable[[], float],
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._reactor = reactor
        self._store = store
        self._profiles = profiles
        self._rules = rules
        self._uploads = uploads
        self._blobs = blobs
        self._output = output
        self._bells = bells
        self._clock = clock
        self._random_bytes = random_bytes
        self._is_shut_down = False

    def shut_down(self) -> None:
        """End every watch, which would otherwise hold up a drain; clients go on elsewhere."""
        self._is_shut_down = True
        self._bells.ring_all()

    # --- submit ---

    async def quote(self, caller: Principal, submission: Submission) -> Quote:
        """What a task like this would cost; nothing is submitted. Raises CallRefused."""
        account = self._reactor.cluster.accounts[caller.account]
        task, _ = self._draft(account, submission)
        return charging.quote_now(self._reactor.cluster, task, self._rules())

    async def submit(
        self, caller: Principal, submission: Submission, chunks: AsyncIterator[UploadChunk]
    ) -> Submitted:
        """Take a task; it is on disk when this returns. Raises CallRefused."""
        account = self._reactor.cluster.accounts[caller.account]
        task, spec = self._draft(account, submission)
        known = await self._known(task)
        if known is not None:
            return known
        self._uploads.check_announced(
            payload=submission.payload_bytes, stdin=submission.stdin_bytes
        )
        # Both are looked at again in its turn; before it, so that nothing is uploaded in vain.
        most_ucpt = submission.ask.max_ucpt
        offer = charging.quote_now(self._reactor.cluster, task, self._rules())
        refusal = charging.refusal_of(offer, task, most_ucpt=most_ucpt)
        if refusal is not None:
            return await self._known_or_refused(task, refusal)
        commands.check_unfinished(
            account.name,
            self._reactor.cluster.unfinished_of[account.name],
            most=self._rules().queue_per_account,
        )
        announced = submission.payload_bytes + submission.stdin_bytes
        if announced > INLINE_BYTES:
            too_much = await too_much_kept(self._store, self._rules(), account.name, announced)
            if too_much is not None:
                raise too_much
        async with self._uploads.receive(chunks, with_stdin=submission.has_stdin) as uploaded:
            check_payload(submission.kind, uploaded.payload.head)
            return await self._take(task, spec, uploaded, most_ucpt)

    async def submit_upload(
        self, owner: str, submission: Submission, uploaded: Uploaded
    ) -> Submitted:
        """As ``submit``, for bytes that are here already, and for an account that may be another's
        than the caller's.

        A submission with the id and the very bytes of a task of the account's is that task.
        """
        account = self._reactor.cluster.accounts[owner]
        task, spec = self._draft(account, submission)
        twin = await self._twin(task)
        if twin is None:
            # What a node that is told the bytes alone can run counts it in.
            self._check_possible(marked(task, spec, uploaded)[0])
            refusal: CallRefused | None = None
            try:
                return await self._take(task, spec, uploaded, submission.ask.max_ucpt)
            except Unsettled:
                # A row may name the file by now: it is not to be touched.
                raise
            except CallRefused as refused:
                refusal = refused
            # Another upload of the same may have come first.
            twin = await self._twin(task)
            if twin is None:
                raise refusal
        if not await self._is_same(twin, uploaded.payload.blob):
            raise taken(
                f"your task {twin.id} has the id {task.client_id!a} and other bytes; choose another"
                " id"
            )
        await self._uploads.discard(uploaded.payload)
        return Submitted(task_id=twin.id, repeated=True)

    def _check_possible(self, task: Task) -> None:
        """Raise NamedFault where every node that there is is too small for the task, or is trusted
        too little.
        """
        fleet = self._reactor.cluster.fleet
        nodes = fleet.nodes.values()
        if nodes and not any(node.could_ever_run(task.requirements) for node in nodes):
            why = explain_impossible(task.requirements, fleet)
            raise NamedFault(
                ErrorCode.INSUFFICIENT_RESOURCES,
                f"{why or 'the task asks for more than any node of the pool has'}; ask for less",
            )

    async def _twin(self, task: Task) -> Task | None:
        if not task.client_id:
            return None
        return await self._store.find_task(task.account, client_id=task.client_id)

    async def _is_same(self, twin: Task, blob: Blob | None) -> bool:
        stored = await self._store.spec(twin.id)
        kept = None if stored is None else stored.payload
        if kept is None or blob is None or kept.size != blob.size:
            return False
        async with (
            self._blobs.open_read(kept) as chunks,
            self._blobs.open_read(blob) as others,
        ):
            async for chunk in chunks:
                if chunk != await anext(others, b""):
                    return False
        return True

    async def _take(
        self, task: Task, spec: TaskSpec, uploaded: Uploaded, most_ucpt: int | None
    ) -> Submitted:
        """Commit a task with its bytes. Raises CallRefused."""
        task, spec = marked(task, spec, uploaded)
        new = NewTask(
            task=task,
            spec=encode_spec(spec),
            payload=uploaded.payload.blob,
            stdin=uploaded.stdin.blob,
        )
        blobs = (new.payload, new.stdin)
        more_bytes = sum(blob.size for blob in blobs if blob is not None) + len(new.spec)
        most = self._rules().queue_per_account
        made: Task | None = None
        refusal = await too_much_kept(self._store, self._rules(), task.account, more_bytes)
        if refusal is None:
            try:
                made = await self._reactor.settle(
                    lambda turn: commands.submit(
                        turn, new, most_unfinished=most, most_ucpt=most_ucpt
                    )
                )
            except DuplicateTask as error:
                refusal = taken(str(error))
            except NamedFault as fault:
                # Too dear, perhaps because the very same submit was here just before.
                refusal = fault
        if refusal is not None:
            known = await self._known_or_refused(task, refusal)
            made = attrs.evolve(task, id=known.task_id)
        if made is not None and made.id != task.id:
            await self._uploads.discard(uploaded.payload)
            await self._uploads.discard(uploaded.stdin)
            return Submitted(task_id=made.id, repeated=True)
        return Submitted(task_id=task.id)

    def _draft(self, account: Account, submission: Submission) -> tuple[Task, TaskSpec]:
        """The task and its spec, within the policy that it asks for. Raises CallRefused."""
        return draft(
            account,
            submission,
            profiles=self._profiles(),
            rules=self._rules(),
            now=self._clock(),
            random_bytes=self._random_bytes,
        )

    async def _known(self, task: Task) -> Submitted | None:
        """The task that an earlier call with the same client key made.

        Raises CallRefused where the client's own id is taken by another task.
        """
        if task.client_key:
            twin = await self._store.find_task(task.account, client_key=task.client_key)
            if twin is not None:
                return Submitted(task_id=twin.id, repeated=True)
        if task.client_id:
            twin = await self._store.find_task(task.account, client_id=task.client_id)
            if twin is not None:
                raise taken(
                    f"your task {twin.id} has the id {task.client_id!a} already; choose another"
                )
        return None

    async def _known_or_refused(self, task: Task, refusal: CallRefused) -> Submitted:
        """As ``_known``, and the refusal is raised where no earlier call made the task."""
        known = await self._known(task)
        if known is None:
            raise refusal
        return known

    # --- look ---

    async def get(self, caller: Principal, task_id: str) -> TaskDetail:
        """A task with its attempts. Raises CallRefused."""
        task = await self.find(caller, task_id)
        (task,) = await self._with_nodes((task,))
        return TaskDetail(task=task, attempts=await self._store.attempts(task.id))

    async def list(self, caller: Principal, query: ListQuery) -> TaskList:
        """A page of tasks, newest first. Raises CallRefused."""
        account: str | None = query.account or caller.account
        if account != caller.account and caller.role != Role.ADMIN:
            raise denied("only an admin may list other accounts' tasks")
        if account == "*":
            account = None
        try:
            page = await self._store.tasks(
                account=account,
                states=None if query.include_ended else _UNFINISHED,
                cursor=query.cursor or None,
                limit=max(1, min(query.limit, _MOST_LISTED)),
            )
        except BadCursor as error:
            raise invalid("this cursor was not given out by a listing") from error
        return TaskList(
            tasks=await self._with_nodes(page.tasks), next_cursor=page.next_cursor or ""
        )

    async def explain(self, caller: Principal, task_id: str) -> Explanation:
        """Why the task is where it is. Raises CallRefused."""
        task = await self.find(caller, task_id)
        cluster = self._reactor.cluster
        return explain(task, cluster.fleet, cluster.queue, trio.current_time())

    async def stop(self, caller: Principal, task_id: str) -> Task:
        """Ask for the task's end; the wish is on disk when this returns. Raises CallRefused."""
        task = await self.find(caller, task_id)
        if task.state.is_end:
            return task
        stopped = await self._reactor.perform(
            lambda turn: commands.stop(turn, task.id, caller.account)
        )
        return stopped if stopped is not None else await self.find(caller, task.id)

    # --- watch and fetch ---

    async def watch(self, caller: Principal, query: WatchQuery) -> AsyncGenerator[WatchItem, None]:
        """The task now, then its changes and output; the last item is the task at its end.

        Output is read from its file, so a slow watcher holds nothing up. Raises CallRefused.
        """
        found = await self.find(caller, query.task_id)
        bell = Bell()
        with self._bells.hung(found.id, bell):
            number = query.attempt or max(found.attempt, 1)
            place = await self._follow(found.id, number, query.offset)
            sent: Task | None = None
            while True:
                task = await self._current(found.id)
                if task != sent and not task.state.is_end:
                    yield task
                    sent = task
                if query.output:
                    async with aclosing(_batches(place)) as batches:
                        async for chunks in batches:
                            for chunk in chunks:
                                yield AttemptOutput(attempt=number, chunk=chunk)
                    if number < task.attempt:
                        number += 1
                        place = await self._follow(found.id, number, 0)
                        continue
                if task.state.is_end:
                    (ended,) = await self._with_nodes((task,))
                    yield ended
                    return
                if query.until_now:
                    return
                if self._is_shut_down:
                    raise unavailable("the master is shutting down; watch again when it is back")
                await bell.wait()

    async def _follow(self, task_id: str, attempt: int, offset: int) -> Follower:
        return (await self._output.log(task_id, attempt)).follow(offset)

    async def download(self, caller: Principal, task_id: str) -> AsyncGenerator[bytes, None]:
        """The result's zip in pieces. Raises CallRefused for a task that has not ended."""
        task = await self.find(caller, task_id)
        if not task.state.is_end:
            raise not_now(
                f"task {task.id} is {task.state}; wait for its end, then fetch its result"
            )
        async with aclosing(self.result_pieces(task)) as pieces:
            async for piece in pieces:
                yield piece

    async def raw_result(self, task: Task) -> Blob | None:
        """What an ended task's node stored as its result, as it came; None where the result is
        the zip of ``result_pieces``.
        """
        attempt = await self._newest_attempt(task)
        if attempt is None or not attempt.raw_result:
            return None
        return await self._store.result(task.id, attempt.number)

    async def result_pieces(self, task: Task) -> AsyncGenerator[bytes, None]:
        """An ended task's result, the same bytes every time."""
        attempt = await self._newest_attempt(task)
        blob: Blob | None = None
        if attempt is not None:
            blob = await self._store.result(task.id, attempt.number)
        parts = ResultParts(
            task=task,
            attempt=attempt,
            log=None if attempt is None else await self._output.log(task.id, attempt.number),
            outputs=None
            if blob is None
            else blob.inline
            if blob.file is None
            else self._blobs.root / blob.file,
        )
        async with aclosing(result_pieces(parts)) as pieces:
            async for piece in pieces:
                yield piece

    async def _newest_attempt(self, task: Task) -> Attempt | None:
        attempts = await self._store.attempts(task.id)
        return attempts[-1] if attempts else None

    # --- whose task it is ---

    async def _current(self, task_id: str) -> Task:
        """The task as it is published. An ended one is in the store alone."""
        task = self._reactor.cluster.tasks.get(task_id) or await self._store.task(task_id)
        if task is None:
            raise _no_such_task(task_id)
        return task

    async def _with_nodes(self, tasks: Sequence[Task]) -> tuple[Task, ...]:
        """Each with the node of its newest attempt; a task itself has one while it is there."""
        over = [task.id for task in tasks if not task.node_id and task.attempt]
        nodes = await self._store.newest_nodes(over) if over else {}
        return tuple(
            attrs.evolve(task, node_id=task.node_id or nodes.get(task.id, "")) for task in tasks
        )

    async def find(self, caller: Principal, task_id: str) -> Task:
        """The task of this id, or the caller's task that it calls by this id.

        Raises CallRefused: there is none, or it is another account's.
        """
        task: Task | None = None
        if is_task_id(task_id):
            task = self._reactor.cluster.tasks.get(task_id) or await self._store.task(task_id)
        is_theirs = task is not None and task.account != caller.account
        if task is None or is_theirs:
            mine = await self._store.find_task(caller.account, client_id=task_id)
            if mine is not None:
                return self._reactor.cluster.tasks.get(mine.id) or mine
        if task is None:
            task = await self._called(caller, task_id)
            is_theirs = True
        if is_theirs and caller.role != Role.ADMIN:
            raise denied(f"no task {task_id} of yours", ErrorCode.TASK_NOT_FOUND)
        return task

    async def _called(self, caller: Principal, client_id: str) -> Task:
        """The task that another account calls by this id. Raises CallRefused where none does, or,
        to an admin, more than one.
        """
        named = await self._store.tasks_called(client_id)
        if not named:
            raise _no_such_task(client_id)
        if len(named) > 1 and caller.role == Role.ADMIN:
            ids = " and ".join(task.id for task in named)
            raise invalid(
                f"more than one account has a task {client_id!a}; ask for it by the pool's id,"
                f" such as {ids}"
            )
        return self._reactor.cluster.tasks.get(named[0].id) or named[0]


async def _batches(place: Follower) -> AsyncGenerator[tuple[OutputChunk, ...], None]:
    """The output that is there now, each batch counted for as long as it is being sent."""
    while (left_bytes := place.log.size - place.offset) > 0:
        async with holding_reply(_BATCH_FACTOR * min(left_bytes, PIECE_BYTES)):
            chunks = await place.next_batch()
            if not chunks:
                return
            yield chunks


def _no_such_task(task_id: str) -> NamedFault:
    return NamedFault(
        ErrorCode.TASK_NOT_FOUND,
        f"no task {task_id[:64]!a}; `hivemind ps --all`, or GetAllTasks, lists yours",
    )
