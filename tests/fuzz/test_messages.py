"""Every RPC, with any message, by anybody: each call gets a proper status, and the daemon stays."""

from collections.abc import Sequence

import pytest
import trio
from google.protobuf import descriptor_pb2
from hypothesis import given
from hypothesis import strategies as st

from hivemind.rpc._standard import ServerReflectionRequest, ServerReflectionResponse
from tests.fuzz.conftest import Watched, bounded
from tests.fuzz.peer import Reply, Sent, exchange, prefixed
from tests.fuzz.schema import Method, Schema

CALLS = 6
"""In one batch, all at once on one connection."""

REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
STANDARD = ("grpc.health.v1.Health", REFLECTION.split("/")[1])

UNIMPLEMENTED = 12
PROPER = frozenset({0, 3, 4, 5, 6, 7, 8, 9, 11, UNIMPLEMENTED, 16})
"""OK, and what a caller is told who asked for what cannot be; neither UNKNOWN nor INTERNAL."""
AWAY = (14, "2002")
"""A node that the call needs is not there, which is no fault of the master's."""
ABORTED = 10
LINK = "/hivemind.v1.Link/Connect"
"""A node's newer link ends its older one, and only there a call is ABORTED."""

LOGOUT = "/hivemind.v1.Accounts/Logout"
ENDINGS = (
    "/hivemind.v1.Nodes/ForgetNode",
    "/hivemind.v1.Accounts/SetRole",
    "/hivemind.v1.Accounts/RevokeToken",
    LOGOUT,
    "/hivemind.v1.Accounts/RotateKeys",
)
"""What may take from callers what they could do before, the worst last: tried on a master of its
own."""

PROJECT = Schema.of_the_project()


@pytest.fixture(scope="module")
def project(master: Watched) -> Schema:
    """What proto/ declares, with names that the master knows."""
    return Schema.of_the_project(master.texts)


def ask(port: int, question: ServerReflectionRequest) -> ServerReflectionResponse:
    async def send() -> Reply:
        sent = Sent(REFLECTION, prefixed(bytes(question)), timeout="10S")
        (reply,) = await exchange(port, [sent])
        return reply

    reply = trio.run(send)
    assert reply.grpc_status == 0
    return ServerReflectionResponse.parse(reply.data[5:])


def served(port: int) -> set[str]:
    """The services that the server says it has."""
    answer = ask(port, ServerReflectionRequest(list_services="")).list_services_response
    assert answer is not None
    return {one.name for one in answer.service}


def reflected(port: int, service: str) -> Schema:
    """What the server itself says of a service."""
    question = ServerReflectionRequest(file_containing_symbol=service)
    answer = ask(port, question).file_descriptor_response
    assert answer is not None
    return Schema(
        [
            descriptor_pb2.FileDescriptorProto.FromString(bytes(file))
            for file in answer.file_descriptor_proto
        ]
    )


def framed(body: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """A stream of one message, as a rule: others hold none, several, or a prefix that lies."""
    good = body.map(prefixed)
    return st.one_of(
        good,
        good,
        good,
        st.lists(good, max_size=3).map(b"".join),
        st.tuples(body, st.integers(0, 2**32 - 1)).map(
            lambda drawn: prefixed(drawn[0], announced=drawn[1])
        ),
        st.tuples(body, st.sampled_from((1, 2, 255))).map(
            lambda drawn: prefixed(drawn[0], flag=drawn[1])
        ),
        st.binary(max_size=12),
    )


def timeout_of(method: str) -> str:
    """What only its deadline ends has a short one."""
    return "50m" if method.endswith("/Watch") else "300m"


def check_replies(watched: Watched, method: str, replies: Sequence[Reply]) -> None:
    """Each is a proper status, and the log has at most a line for each."""
    proper = PROPER | {ABORTED} if method == LINK else PROPER
    for reply in replies:
        assert reply.http_status == "200", reply
        assert reply.grpc_status in proper or (reply.grpc_status, reply.code) == AWAY, reply
        assert reply.code != "9999", reply
    watched.check_log(len(replies))


def fire(watched: Watched, schema: Schema, method: Method, *, without: str = "") -> None:
    kinds = sorted(watched.tokens.keys() - {without})
    streams = framed(schema.bodies(method.request))
    calls = st.tuples(st.sampled_from(kinds), streams)

    @bounded()
    @given(st.lists(calls, min_size=1, max_size=CALLS))
    def each_is_answered(drawn: list[tuple[str, bytes]]) -> None:
        sent = [
            Sent(method.path, stream, watched.tokens[kind], timeout=timeout_of(method.path))
            for kind, stream in drawn
        ]

        async def send() -> list[Reply]:
            replies = await exchange(watched.port, sent)
            await watched.check_health()
            return replies

        check_replies(watched, method.path, trio.run(send))

    each_is_answered()
    watched.check_memory()


def fire_at_all(watched: Watched, schema: Schema, service: str) -> None:
    methods = [one for one in schema.methods if one.path.startswith(f"/{service}/")]
    assert methods
    if service in served(watched.port):
        for method in methods:
            if method.path not in ENDINGS:
                fire(watched, schema, method)
        return
    replies = trio.run(exchange, watched.port, [Sent(one.path, prefixed(b"")) for one in methods])
    assert {reply.grpc_status for reply in replies} == {UNIMPLEMENTED}


SERVICES = sorted({method.path.split("/")[1] for method in PROJECT.methods})


@pytest.mark.parametrize("service", SERVICES)
def test_the_master_answers_every_message_with_a_proper_status(
    master: Watched, project: Schema, service: str
) -> None:
    fire_at_all(master, project, service)
    trio.run(master.check_tokens)


@pytest.mark.parametrize("service", SERVICES)
def test_a_worker_answers_every_message_with_a_proper_status(
    worker: Watched, project: Schema, service: str
) -> None:
    fire_at_all(worker, project, service)


@pytest.mark.parametrize("service", STANDARD)
def test_the_standard_services_answer_every_message_with_a_proper_status(
    master: Watched, worker: Watched, service: str
) -> None:
    for daemon in (master, worker):
        fire_at_all(daemon, reflected(daemon.port, service), service)


def test_what_ends_tokens_is_answered_with_a_proper_status(spare: Watched) -> None:
    schema = Schema.of_the_project(spare.texts)
    methods = {one.path: one for one in schema.methods}
    for path in ENDINGS:
        # The admin is needed for what comes after.
        fire(spare, schema, methods[path], without="admin" if path == LOGOUT else "")
