"""Calls that the master would act on, spoilt: what is behind the first check is reached, too."""

from collections.abc import Sequence

import betterproto2
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from hivemind._pb import nodepool, taskworker
from hivemind._pb.hivemind import v1
from tests.fuzz.conftest import Watched, bounded
from tests.fuzz.peer import Sent, exchange, prefixed
from tests.fuzz.schema import with_byte
from tests.fuzz.test_messages import check_replies, timeout_of

TASKS, LINK = "/hivemind.v1.Tasks/", "/hivemind.v1.Link/"
PUBLIC = "/nodepool.MasterNodeService/"
DIRECT = "/taskworker.TaskWorkerService/"


def stream(*messages: betterproto2.Message) -> bytes:
    return b"".join(prefixed(bytes(message)) for message in messages)


def told(*items: v1.WorkerItem) -> bytes:
    """What a worker says over its link, each item in a message of its own."""
    return stream(*(v1.WorkerMessage(items=[item]) for item in items))


def conversations(task_id: str) -> dict[str, tuple[str, bytes]]:
    """By method and kind: who means it, and what it holds."""
    ref = {"task_id": task_id, "attempt": 1}
    header = v1.SubmitHeader(kind=v1.PayloadKind.SCRIPT, filename="x.py", env={"A": "b"})
    capacity = v1.Capacity(slots=2, cpu_millis=2000, memory_bytes=2**32)
    hello = v1.WorkerItem(
        hello=v1.Hello(
            capacity=capacity,
            hostname="h",
            version="1",
            limits="cgroup",
            sandbox="enabled",
            held=[v1.AttemptRef(**ref)],
        )
    )
    piece = v1.Output(attempt=1, stream=v1.OutputStream.STDOUT, data=b"out", at=1.0)
    ending = v1.Ending(outcome="succeeded", reason="exited", exit_code=0, usage=v1.Usage())
    finished = v1.Finished(**ref, seq=3, ending=ending, result=b"", output_bytes=3)
    work = (
        v1.WorkerItem(vitals=v1.Vitals(cpu_percent=1.0, running=1)),
        v1.WorkerItem(started=v1.Started(**ref, seq=1)),
        v1.WorkerItem(output=v1.TaskOutput(task_id=task_id, output=piece)),
        v1.WorkerItem(refused=v1.Refused(**ref, seq=2, kind="busy", detail="x")),
    )
    return {
        f"{TASKS}Submit script": (
            "ann",
            stream(v1.SubmitRequest(header=header), v1.SubmitRequest(payload=b"print(1)")),
        ),
        f"{TASKS}Submit archive": (
            "ann",
            stream(
                v1.SubmitRequest(header=v1.SubmitHeader(kind=v1.PayloadKind.ARCHIVE)),
                v1.SubmitRequest(payload=b"PK\x05\x06" + b"\0" * 18),
            ),
        ),
        f"{TASKS}Get": ("ann", stream(v1.GetRequest(task_id=task_id))),
        f"{TASKS}Watch": ("ann", stream(v1.WatchRequest(task_id=task_id, output=True))),
        f"{TASKS}Download": ("ann", stream(v1.DownloadRequest(task_id=task_id))),
        f"{TASKS}List": ("admin", stream(v1.ListRequest(account="*", all=True))),
        f"{TASKS}Explain": ("ann", stream(v1.ExplainRequest(task_id=task_id))),
        f"{TASKS}Quote": ("ann", stream(v1.QuoteRequest(header=header))),
        "/hivemind.v1.Credits/Transfer": (
            "ann",
            stream(v1.TransferRequest(receiver="admin", amount_ucpt=1, key="k", memo="m")),
        ),
        "/nodepool.UserService/Transfer": (
            "ann",
            stream(nodepool.TransferRequest(receiver_username="admin", amount=1)),
        ),
        f"{PUBLIC}UploadTask": (
            "ann",
            stream(
                nodepool.UploadTaskRequest(task_id="mine", task_data=b"print(1)", user_id="ann")
            ),
        ),
        f"{PUBLIC}GetTaskResult": ("ann", stream(nodepool.GetTaskResultRequest(task_id=task_id))),
        f"{PUBLIC}GetTaskLogs": ("ann", stream(nodepool.GetTaskLogsRequest(task_id=task_id))),
        "/nodepool.NodeManagerService/RegisterWorkerNode": (
            "ann",
            stream(
                nodepool.RegisterWorkerNodeRequest(
                    node_id="pushed", hostname="127.0.0.1", port=9, cpu_cores=1, memory_gb=1
                )
            ),
        ),
        "/nodepool.NodeManagerService/ReportStatus": (
            "ann",
            stream(nodepool.ReportStatusRequest(node_id="pushed", status="online")),
        ),
        f"{PUBLIC}StoreOutput": (
            "ann",
            stream(nodepool.StoreOutputRequest(task_id=task_id, output="x", sequence=1)),
        ),
        f"{PUBLIC}TaskCompleted": (
            "ann",
            stream(nodepool.TaskCompletedRequest(task_id=task_id, node_id="pushed", success=True)),
        ),
        f"{LINK}FinishWithResult": (
            "node",
            stream(
                v1.FinishWithResultRequest(report=finished), v1.FinishWithResultRequest(data=b"x")
            ),
        ),
        f"{LINK}FetchPayload": ("node", stream(v1.FetchPayloadRequest(**ref))),
        f"{LINK}Connect hello": ("node", told(hello)),
        f"{LINK}Connect work": ("node", told(hello, *work)),
        f"{LINK}Connect end": ("node", told(hello, v1.WorkerItem(finished=finished))),
    }


def spoilt(whole: bytes) -> st.SearchStrategy[bytes]:
    """It as it is, cut short, with bytes changed or left out, or told twice."""
    places = st.integers(0, len(whole))
    return st.one_of(
        st.just(whole),
        places.map(lambda at: whole[:at]),
        st.tuples(st.just(whole), places, st.integers(0, 255)).map(with_byte),
        st.tuples(places, places).map(lambda ends: whole[: min(ends)] + whole[max(ends) :]),
        st.just(whole + whole),
    )


def direct() -> dict[str, bytes]:
    """What a worker acts on where it is called directly."""
    script = taskworker.ExecuteTaskRequest(
        task_id="direct", task_type="python", task_data=b"print(1)", parameters={"args": "1"}
    )
    return {
        f"{DIRECT}ExecuteTask": stream(script),
        f"{DIRECT}GetTaskStatus": stream(taskworker.GetTaskStatusRequest(task_id="direct")),
        f"{DIRECT}CancelTask": stream(taskworker.CancelTaskRequest(task_id="direct")),
    }


def converse(watched: Watched, method: str, who: str, whole: bytes) -> None:
    timeout = timeout_of(method)

    @bounded()
    @given(st.lists(spoilt(whole), min_size=1, max_size=4))
    def each_is_answered(streams: Sequence[bytes]) -> None:
        sent = [Sent(method, one, watched.tokens[who], timeout=timeout) for one in streams]
        # A node's newer link ends its older one: its conversations come one by one.
        batches = [[one] for one in sent] if who == "node" else [sent]
        for batch in batches:
            check_replies(watched, method, trio.run(exchange, watched.port, batch))

    each_is_answered()
    trio.run(watched.check_health)
    watched.check_memory()


@pytest.mark.parametrize("kind", conversations(""))
def test_what_almost_makes_sense_is_answered_with_a_proper_status(
    master: Watched, kind: str
) -> None:
    who, whole = conversations(master.texts[0])[kind]
    converse(master, kind.split()[0], who, whole)


@pytest.mark.parametrize("method", direct())
def test_a_worker_that_is_called_directly_answers_with_a_proper_status(
    worker: Watched, method: str
) -> None:
    converse(worker, method, "guest", direct()[method])
