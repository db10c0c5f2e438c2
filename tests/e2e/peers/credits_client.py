"""An ordinary grpcio client with accounts that pay each other. Prints one JSON document.

Usage: credits_client.py STUBS_FOLDER ADDRESS CASE TOKENS_JSON
"""

import json
import sys
import time
from typing import Any

sys.path.insert(0, sys.argv[1])

import grpc
import nodepool_pb2 as pb
import nodepool_pb2_grpc as rpc


class Bank:
    """The calls about CPT, by account."""

    def __init__(self, channel: Any) -> None:
        self.users = rpc.UserServiceStub(channel)
        self.tasks = rpc.MasterNodeServiceStub(channel)
        self.tokens: dict[str, str] = json.loads(sys.argv[4])

    def me(self, name: str) -> list[tuple[str, str]]:
        return [("authorization", f"Bearer {self.tokens[name]}")]

    def outcome(self, call: Any, message: Any, name: str) -> list[Any]:
        """What it came to: a success or a status, the code, and what was said."""
        try:
            reply, info = call.with_call(message, metadata=self.me(name))
        except grpc.RpcError as error:
            trailing = dict(error.trailing_metadata() or ())
            return [error.code().name, trailing.get("hivemind-error-code"), error.details()]
        trailing = dict(info.trailing_metadata() or ())
        return [reply.success, trailing.get("hivemind-error-code"), reply.message]

    def transfer(self, name: str, to: str, amount: int, key: str = "") -> list[Any]:
        message = pb.TransferRequest(receiver_username=to, amount=amount, idempotency_key=key)
        return self.outcome(self.users.Transfer, message, name)

    def balance(self, name: str, whose: str = "") -> int:
        message = pb.GetBalanceRequest(username=whose or name)
        return int(self.users.GetBalance(message, metadata=self.me(name)).balance)


def enter(bank: Bank) -> Any:
    tokens = {}
    for name in ("ann", "bob"):
        who = {"username": name, "password": f"{name}-password"}
        made = bank.users.Register(pb.RegisterRequest(**who))
        assert made.success, made.message
        tokens[name] = bank.users.Login(pb.LoginRequest(**who)).token
    return tokens


def transfers(bank: Bank) -> Any:
    in_message = pb.TransferRequest(token=bank.tokens["ann"], receiver_username="bob", amount=1)
    return {
        "good": bank.transfer("ann", "bob", 10, "once"),
        "again": bank.transfer("ann", "bob", 10, "once"),
        "other": bank.transfer("ann", "bob", 11, "once"),
        "token in the message": bank.users.Transfer(in_message).success,
        "too much": bank.transfer("ann", "bob", 1000),
        "nobody": bank.transfer("ann", "nobody", 1),
        "oneself": bank.transfer("ann", "ann", 1),
        "nothing": bank.transfer("ann", "bob", 0),
        "less than nothing": bank.transfer("ann", "bob", -5),
        "most of all": bank.transfer("ann", "bob", 2**63 - 1),
        "another's": bank.outcome(
            bank.users.GetBalance, pb.GetBalanceRequest(username="bob"), "ann"
        ),
        "by an admin": bank.balance("admin", "bob"),
        "of nobody by an admin": bank.outcome(
            bank.users.GetBalance, pb.GetBalanceRequest(username="nobody"), "admin"
        ),
        "balances": [bank.balance("ann"), bank.balance("bob")],
    }


def work(bank: Bank) -> Any:
    """Ann's task on bob's node, and one that is too dear."""
    made = bank.outcome(
        bank.tasks.UploadTask,
        pb.UploadTaskRequest(task_id="paid", task_data=b"import time; time.sleep(2)"),
        "ann",
    )
    held = bank.balance("ann")
    until = time.monotonic() + 60
    while True:
        now = bank.tasks.PollTaskStatus(
            pb.PollTaskStatusRequest(task_id="paid"), metadata=bank.me("ann")
        )
        if now.status not in ("PENDING", "RUNNING") or time.monotonic() > until:
            break
        time.sleep(0.05)
    dear = b"# /// script\n# [tool.hivemind]\n# time = '5h'\n# ///\n"
    return {
        "made": made,
        "held": held,
        "status": now.status,
        "dear": bank.outcome(
            bank.tasks.UploadTask, pb.UploadTaskRequest(task_id="dear", task_data=dear), "ann"
        ),
        "dear is": bank.outcome(
            bank.tasks.PollTaskStatus, pb.PollTaskStatusRequest(task_id="dear"), "ann"
        ),
    }


def main() -> None:
    with grpc.insecure_channel(sys.argv[2]) as channel:
        print(json.dumps(globals()[sys.argv[3]](Bank(channel))))


main()
