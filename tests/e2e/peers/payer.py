"""An ordinary grpcio client with stubs generated from proto/: alice, whose task bob's node runs,
and bob. Prints what it saw as one JSON document.

Usage: payer.py STUBS_FOLDER ADDRESS
"""

import json
import sys
from typing import Any

sys.path.insert(0, sys.argv[1])

import grpc
import nodepool_pb2
import nodepool_pb2_grpc
from hivemind_v1 import credits_pb2, credits_pb2_grpc, tasks_pb2, tasks_pb2_grpc

PASSWORD = "a long password"
SCRIPT = b"import time; time.sleep(1.2)"


def bearer(token: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {token}")]


def status_of(call: Any) -> list[Any]:
    """The status of a refused call, and the code in its trailing metadata."""
    try:
        call()
    except grpc.RpcError as error:
        trailing = dict(error.trailing_metadata() or ())
        return [error.code().name, trailing.get("hivemind-error-code")]
    return ["OK", None]


def answer_of(method: Any, request: Any, **options: Any) -> list[Any]:
    """Whether it succeeded, the name at the head of the message, and the trailing code."""
    reply, call = method.with_call(request, **options)
    code = dict(call.trailing_metadata()).get("hivemind-error-code")
    return [reply.success, reply.message.split(":")[0] if code else "", code]


def submit(tasks: Any, token: str, **ask: Any) -> str:
    def messages() -> Any:
        header = tasks_pb2.SubmitHeader(
            kind=tasks_pb2.PAYLOAD_KIND_SCRIPT, filename="s.py", ask=tasks_pb2.Ask(**ask)
        )
        yield tasks_pb2.SubmitRequest(header=header)
        yield tasks_pb2.SubmitRequest(payload=SCRIPT)

    return str(tasks.Submit(messages(), metadata=bearer(token), timeout=30).task_id)


def main() -> None:
    seen: dict[str, Any] = {}
    with grpc.insecure_channel(sys.argv[2]) as channel:
        users = nodepool_pb2_grpc.UserServiceStub(channel)
        tasks = tasks_pb2_grpc.TasksStub(channel)
        ledger = credits_pb2_grpc.CreditsStub(channel)
        users.Register(nodepool_pb2.RegisterRequest(username="alice", password=PASSWORD))
        tokens = {
            name: users.Login(nodepool_pb2.LoginRequest(username=name, password=PASSWORD)).token
            for name in ("alice", "bob")
        }
        alice = tokens["alice"]

        def balance(name: str) -> int:
            """In whole CPT, with the token in the message."""
            reply = users.GetBalance(
                nodepool_pb2.GetBalanceRequest(username=name, token=tokens[name])
            )
            assert reply.success, reply.message
            return int(reply.balance)

        def exact(name: str) -> list[int]:
            reply = ledger.Balance(credits_pb2.BalanceRequest(), metadata=bearer(tokens[name]))
            return [reply.balance_ucpt, reply.held_ucpt]

        seen["before"] = {name: balance(name) for name in tokens}
        task = submit(tasks, alice)
        seen["held"] = exact("alice")
        for item in tasks.Watch(
            tasks_pb2.WatchRequest(task_id=task), metadata=bearer(alice), timeout=60
        ):
            if item.HasField("task"):
                seen["state"] = tasks_pb2.TaskState.Name(item.task.state)
        seen["after"] = {name: balance(name) for name in tokens}
        seen["exact"] = {name: exact(name) for name in tokens}
        history = ledger.History(credits_pb2.HistoryRequest(), metadata=bearer(alice)).movements
        seen["history"] = [[entry.kind, entry.change_ucpt, entry.other] for entry in history]
        earned = ledger.History(credits_pb2.HistoryRequest(), metadata=bearer(tokens["bob"]))
        newest = earned.movements[0]
        seen["earned"] = [newest.kind, newest.task_id == task, newest.attempt]
        seen["too_dear"] = status_of(lambda: submit(tasks, alice, wall_s=7 * 86400.0))
        seen["over_max"] = status_of(lambda: submit(tasks, alice, max_ucpt=1))

        transfer = nodepool_pb2.TransferRequest
        seen["transfers"] = {
            what: answer_of(users.Transfer, request)
            for what, request in {
                "good": transfer(token=alice, receiver_username="bob", amount=5),
                "once": transfer(
                    token=alice, receiver_username="bob", amount=7, idempotency_key="k"
                ),
                "again": transfer(
                    token=alice, receiver_username="bob", amount=7, idempotency_key="k"
                ),
                "nobody": transfer(token=alice, receiver_username="nobody", amount=5),
                "too much": transfer(token=alice, receiver_username="bob", amount=10**6),
            }.items()
        }
        seen["in_the_end"] = {name: balance(name) for name in tokens}
        seen["refused"] = {
            "nothing": status_of(
                lambda: users.Transfer(transfer(token=alice, receiver_username="bob", amount=0))
            ),
            "less": status_of(
                lambda: users.Transfer(
                    transfer(token=alice, receiver_username="bob", amount=-(2**63))
                )
            ),
            "far too much": status_of(
                lambda: users.Transfer(
                    transfer(token=alice, receiver_username="bob", amount=2**63 - 1)
                )
            ),
            "to herself": status_of(
                lambda: users.Transfer(transfer(token=alice, receiver_username="alice", amount=1))
            ),
            "no token": status_of(
                lambda: users.GetBalance(nodepool_pb2.GetBalanceRequest(username="alice"))
            ),
            "a bad token": status_of(
                lambda: users.Transfer(transfer(token="x.y.z", receiver_username="bob", amount=1))
            ),
            "another's": status_of(
                lambda: users.GetBalance(
                    nodepool_pb2.GetBalanceRequest(username="bob", token=alice)
                )
            ),
            # Metadata goes before the message.
            "metadata wins": status_of(
                lambda: users.GetBalance(
                    nodepool_pb2.GetBalanceRequest(username="alice", token=alice),
                    metadata=bearer(tokens["bob"]),
                )
            ),
        }
    print(json.dumps(seen))


main()
