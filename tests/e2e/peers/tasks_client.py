"""An ordinary grpcio client that uses the task service as several accounts. Prints one JSON
document.

Usage: tasks_client.py STUBS_FOLDER ADDRESS TOKENS_BY_NAME CASE [ARGUMENT...]
"""

import hashlib
import io
import json
import sys
import time
import zipfile
from collections.abc import Callable
from typing import Any

sys.path.insert(0, sys.argv[1])

import grpc
import nodepool_pb2 as pb
import nodepool_pb2_grpc as rpc

LIMIT_S = 60.0
UNLIMITED = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
]
OVER = ("COMPLETED", "FAILED", "STOPPED")
REQUESTS: dict[str, Callable[[str], Any]] = {
    "PollTaskStatus": lambda task_id: pb.PollTaskStatusRequest(task_id=task_id),
    "GetTaskResult": lambda task_id: pb.GetTaskResultRequest(task_id=task_id),
    "GetTaskLogs": lambda task_id: pb.GetTaskLogsRequest(task_id=task_id),
    "StopTask": lambda task_id: pb.StopTaskRequest(task_id=task_id),
}


class Peer:
    """The task service with a token in the metadata, or without one."""

    def __init__(self, channel: Any, token: str = "") -> None:
        self._stub = rpc.MasterNodeServiceStub(channel)
        self._metadata = [("authorization", f"Bearer {token}")] if token else []
        self.token = token

    def raw(self, method: str, message: Any) -> tuple[Any, Any]:
        """The reply and its call."""
        call = getattr(self._stub, method)
        reply, done = call.with_call(message, metadata=self._metadata, timeout=LIMIT_S)
        return reply, done

    def __getattr__(self, name: str) -> Any:
        return lambda message: self.raw(name, message)[0]

    def told(self, method: str, message: Any) -> dict[str, Any]:
        """How the call ended: its status, or success; the code, and what was said."""
        try:
            reply, call = self.raw(method, message)
        except grpc.RpcError as error:
            return {
                "status": error.code().name,
                "code": dict(error.trailing_metadata() or ()).get("hivemind-error-code"),
                "message": error.details(),
            }
        return {
            "status": "OK",
            "success": getattr(reply, "success", None),
            "code": dict(call.trailing_metadata()).get("hivemind-error-code"),
            "message": getattr(reply, "message", None),
        }

    def upload(self, task_id: str, data: bytes, user_id: str = "") -> dict[str, Any]:
        request = pb.UploadTaskRequest(task_id=task_id, task_data=data, user_id=user_id)
        return self.told("UploadTask", request)

    def poll(self, task_id: str) -> Any:
        return self.PollTaskStatus(pb.PollTaskStatusRequest(task_id=task_id))

    def wait(self, task_id: str, statuses: tuple[str, ...] = OVER) -> Any:
        """The first poll that shows one of these."""
        until = time.monotonic() + LIMIT_S
        while (seen := self.poll(task_id)).status not in statuses:
            assert time.monotonic() < until, f"{task_id} is still {seen}"
            time.sleep(0.02)
        return seen

    def run(self, task_id: str, data: bytes) -> Any:
        """The poll that shows its end."""
        made = self.upload(task_id, data)
        assert made["success"], made
        return self.wait(task_id)

    def logs(self, task_id: str) -> Any:
        return self.GetTaskLogs(pb.GetTaskLogsRequest(task_id=task_id))

    def listed(self) -> list[Any]:
        return list(self.GetAllTasks(pb.GetAllTasksRequest()).tasks)


class People:
    """The admin, two accounts, and somebody without a token."""

    def __init__(self, channel: Any) -> None:
        tokens = json.loads(sys.argv[3])
        self.admin = Peer(channel, tokens["admin"])
        self.nobody = Peer(channel)
        self._channel = channel
        self.alice, self.mallory = (
            Peer(channel, tokens.get(name, "")) for name in ("alice", "mallory")
        )

    def enter(self, name: str) -> str:
        """A token of a new account."""
        users = rpc.UserServiceStub(self._channel)
        password = f"{name}-password"
        users.Register(pb.RegisterRequest(username=name, password=password))
        entered = users.Login(pb.LoginRequest(username=name, password=password))
        assert entered.success, entered.message
        return str(entered.token)


def members(reply: Any) -> dict[str, str]:
    """The texts in a result."""
    with zipfile.ZipFile(io.BytesIO(reply.result_data)) as archive:
        return {
            name: archive.read(name).decode(errors="replace") for name in sorted(archive.namelist())
        }


def told_of(reply_and_call: tuple[Any, Any]) -> dict[str, Any]:
    reply, call = reply_and_call
    return {
        "success": reply.success,
        "message": reply.message,
        "code": dict(call.trailing_metadata()).get("hivemind-error-code"),
        "members": members(reply) if reply.result_data else {},
    }


def enter(people: People) -> Any:
    """Tokens of the two accounts, which are made."""
    return {name: people.enter(name) for name in ("alice", "mallory")}


def life(people: People) -> Any:
    """One task from its upload to its end, as every call tells it."""
    alice, began_at = people.alice, time.time()
    script = (
        b"import os, sys\n"
        b"print('one', flush=True)\n"
        b"print('two', file=sys.stderr, flush=True)\n"
        b"sys.stdout.buffer.write(b'caf\\xc3\\xa9 \\xff')\n"
        b"open(os.environ['HIVEMIND_OUTPUT'] + '/made.txt', 'w')"
        b".write('kept by ' + os.environ['HIVEMIND_TASK_ID'])\n"
    )
    made = alice.upload("life", script, "alice")
    end = alice.wait("life")
    result = told_of(alice.raw("GetTaskResult", pb.GetTaskResultRequest(task_id="life")))
    again = told_of(alice.raw("GetTaskResult", pb.GetTaskResultRequest(task_id="life")))
    (row,) = [task for task in alice.listed() if task.task_id == "life"]
    return {
        "made": made,
        "end": [end.success, end.status, end.message, list(end.output)],
        "logs": alice.logs("life").logs,
        "result": result,
        "same": result == again,
        "row": [row.status, bool(row.assigned_node), row.user_id],
        "in_order": began_at - 5 < row.created_at <= row.started_at <= row.completed_at,
        "stopped_after": alice.told("StopTask", pb.StopTaskRequest(task_id="life")),
    }


def archives(people: People) -> Any:
    """What the bytes can be: the output of each."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("main.py", "import part; print(part.TEXT)")
        archive.writestr("part.py", "TEXT = 'from a zip'")
    return {
        "zip": list(people.alice.run("a-zip", packed.getvalue()).output),
        "hashbang": list(people.alice.run("a-hashbang", b"#!/bin/sh\necho from sh").output),
        "python": list(people.alice.run("a-python", b"print('Hello, HiveMind!')").output),
        "binary": people.alice.upload("a-binary", b"\x7fELF\0\0\0"),
        "empty": people.alice.upload("an-empty", b""),
    }


def ids(people: People) -> Any:
    """Ids that are not good, none, repeats, and the same id of two accounts."""
    alice, mallory = people.alice, people.mallory
    none = alice.upload("", b"print('no id')")
    given = none["message"].split()[1]
    return {
        "bad": [alice.upload(bad, b"pass") for bad in ("a/b", "a b", "x" * 129, "caf\u00e9")],
        "longest": alice.upload("x" * 128, b"pass"),
        "none": [none["success"], list(alice.wait(given).output)],
        "first": alice.upload("twice", b"print('alice')"),
        "again": alice.upload("twice", b"print('alice')"),
        "other": alice.upload("twice", b"print('other')"),
        "theirs": mallory.upload("twice", b"print('mallory')"),
        "outputs": [list(alice.wait("twice").output), list(mallory.wait("twice").output)],
        "listed": [
            [row.task_id for row in one.listed()].count("twice") for one in (alice, mallory)
        ],
        "admin": people.admin.told("PollTaskStatus", REQUESTS["PollTaskStatus"]("twice")),
    }


def owners(people: People) -> Any:
    """Who may submit for whom, and who then owns it."""
    admin, alice, mallory = people.admin, people.alice, people.mallory
    seen = {
        "for_another": mallory.upload("billed", b"pass", "alice"),
        "for_nobody": admin.upload("orphan", b"pass", "nobody-here"),
        "by_admin": admin.upload("gift", b"print('for alice')", "alice"),
        "output": list(admin.wait("gift").output),
    }
    (row,) = [task for task in alice.listed() if task.task_id == "gift"]
    seen["owner"] = row.user_id
    everybodys = {task.user_id for task in admin.listed()}
    seen["admin_lists"] = everybodys >= {"alice"}
    seen["mallory_lists"] = sorted({task.user_id for task in mallory.listed()} - {"mallory"})
    return seen


def strangers(people: People) -> Any:
    """Every call on another's task, by either id; on one that nobody has; and without a token."""
    made = people.alice.upload("", b"import time; time.sleep(60)")
    pools = made["message"].split()[1]
    people.alice.upload("hers", b"import time; time.sleep(60)")
    seen: dict[str, Any] = {
        "theirs": {
            f"{method} {what}": people.mallory.told(method, request(task_id))
            for method, request in REQUESTS.items()
            for what, task_id in (("by pool's id", pools), ("by her id", "hers"))
        },
        "unknown": {
            method: people.mallory.told(method, request("no-such-task"))
            for method, request in REQUESTS.items()
        },
        "tokenless": {
            method: people.nobody.told(method, request(pools))
            for method, request in REQUESTS.items()
        },
        "still": people.alice.wait("hers", ("PENDING", "RUNNING")).status in {"PENDING", "RUNNING"},
    }
    seen["tokenless"]["UploadTask"] = people.nobody.upload("x", b"pass")
    seen["tokenless"]["GetAllTasks"] = people.nobody.told("GetAllTasks", pb.GetAllTasksRequest())
    for task_id in (pools, "hers"):
        people.alice.StopTask(pb.StopTaskRequest(task_id=task_id))
    return seen


def tokens(people: People) -> Any:
    """Tokens in the message: good, bad, and against one in the metadata."""
    people.alice.run("tokens", b"print('by token')")
    token, nobody = people.alice.token, people.nobody
    with_id = {
        "GetTaskResult": pb.GetTaskResultRequest,
        "GetTaskLogs": pb.GetTaskLogsRequest,
        "StopTask": pb.StopTaskRequest,
    }
    seen: dict[str, Any] = {
        method: [
            nobody.told(method, make(task_id="tokens", token=token))["success"],
            nobody.told(method, make(task_id="tokens", token="x" + token))["code"],
            people.mallory.told(method, make(task_id="tokens", token=token))["code"],
        ]
        for method, make in with_id.items()
    }
    rows = nobody.GetAllTasks(pb.GetAllTasksRequest(token=token)).tasks
    seen["GetAllTasks"] = "tokens" in {row.task_id for row in rows}
    return seen


def ends(people: People) -> Any:
    """How tasks that do not succeed are told, and what is left of them."""
    alice = people.alice
    seen: dict[str, Any] = {}
    for name, script in {
        "fails": b"print('before'); raise SystemExit(3)",
        "slow": b"# /// script\n# [tool.hivemind]\n# time = '1s'\n# ///\n"
        b"print('before', flush=True)\nimport time; time.sleep(60)",
    }.items():
        end = alice.run(name, script)
        seen[name] = {
            "poll": [end.status, end.message],
            **told_of(alice.raw("GetTaskResult", pb.GetTaskResultRequest(task_id=name))),
        }
    asked = pb.GetTaskResultRequest(task_id="endless")
    alice.upload("endless", b"print('before', flush=True)\nimport time; time.sleep(300)")
    while "before" not in alice.wait("endless", ("RUNNING",)).output:
        time.sleep(0.02)
    seen["running"] = told_of(alice.raw("GetTaskResult", asked))
    seen["stop"] = alice.told("StopTask", pb.StopTaskRequest(task_id="endless"))
    seen["status"] = alice.wait("endless").status
    seen["stop_again"] = alice.told("StopTask", pb.StopTaskRequest(task_id="endless"))
    seen["stopped"] = told_of(alice.raw("GetTaskResult", asked))
    greedy = b"# /// script\n# [tool.hivemind]\n# cpus = 64\n# ///\n"
    seen["too_large"] = alice.upload("too-large", greedy)
    choosy = b"# /// script\n# [tool.hivemind]\n# trust = 100\n# ///\n"
    seen["too_trusted"] = alice.upload("too-trusted", choosy)
    return seen


def much(people: People) -> Any:
    """A poll of much output, and its log."""
    end = people.alice.run("much", b"for number in range(6000): print(number)")
    log = people.alice.logs("much")
    return {
        "lines": [len(end.output), end.output[0], end.output[-1]],
        "message": end.message,
        "logs": log.logs == "".join(f"{number}\n" for number in range(6000)),
    }


def many(people: People) -> Any:
    """More tasks than fit a page, which all wait: whether all are listed, the newest first."""
    names = [f"many-{number}" for number in range(250)]
    for name in names:
        assert people.alice.upload(name, b"pass")["success"]
    rows = [row for row in people.alice.listed() if row.task_id.startswith("many-")]
    stopped = people.alice.told("StopTask", pb.StopTaskRequest(task_id=names[0]))
    return {
        "in_order": [row.task_id for row in rows] == names[::-1],
        "statuses": sorted({row.status for row in rows}),
        "unset": [rows[0].assigned_node, rows[0].started_at, rows[0].completed_at],
        "stopped": [stopped["message"], people.alice.poll(names[0]).status],
    }


def sized(people: People) -> Any:
    """A task of so many bytes, and one of one more."""
    size = int(sys.argv[5])
    name = f"sized-{size}"
    head = b"print('ran')\n#"
    seen = [people.alice.upload(f"{name}-{more}", head.ljust(size + more, b"x")) for more in (0, 1)]
    again = people.alice.upload(f"{name}-0", head.ljust(size, b"x"))
    people.alice.StopTask(pb.StopTaskRequest(task_id=f"{name}-0"))
    return {"fits": seen[0], "over": seen[1], "again": again}


def weighty(people: People) -> Any:
    """A task that leaves a result of so many bytes."""
    script = b"""
import hashlib, os
data = os.urandom(1 << 20) * %d
open(os.environ["HIVEMIND_OUTPUT"] + "/data", "wb").write(data)
print(hashlib.sha256(data).hexdigest())
""" % (int(sys.argv[5]) >> 20)
    end = people.alice.run("weighty", script)
    return {"status": end.status, "digest": end.output[0]}


def fetched(people: People) -> Any:
    """The digest of what is in that result."""
    got = people.alice.GetTaskResult(pb.GetTaskResultRequest(task_id="weighty"))
    with zipfile.ZipFile(io.BytesIO(got.result_data)) as archive:
        return hashlib.sha256(archive.read("output/data")).hexdigest()


def ended(people: People) -> Any:
    """Run a task; the pool's id of it."""
    people.alice.run("broken", b"print('there')")
    made = people.alice.upload("", b"print('there')")
    task_id = made["message"].split()[1]
    people.alice.wait(task_id)
    return task_id


def polled(people: People) -> Any:
    """What a poll says."""
    return people.alice.told("PollTaskStatus", pb.PollTaskStatusRequest(task_id=sys.argv[5]))


def main() -> None:
    with grpc.insecure_channel(sys.argv[2], UNLIMITED) as channel:
        print(json.dumps(globals()[sys.argv[4]](People(channel))))


main()
