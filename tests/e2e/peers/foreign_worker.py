# ruff: noqa: ANN001, ANN003, ANN201, ANN202, ANN204
"""A worker that was written by somebody else: grpcio, stubs generated from proto/, nothing of ours.

It is told what to do by JSON lines on its standard input and says what it sees by JSON lines on its
standard output: an answer to each, and an event for each call that the master makes on it.

Usage: foreign_worker.py STUBS MASTER
"""

import base64
import importlib
import json
import os
import socket
import subprocess
import sys
import threading  # noqa: TID251 - a foreign program, whose library is made of threads
import time
from concurrent.futures import ThreadPoolExecutor

sys.path.insert(0, sys.argv[1])

import grpc
import nodepool_pb2 as pb
import nodepool_pb2_grpc as rpc
from google.protobuf import json_format
from hivemind_v1 import tasks_pb2, tasks_pb2_grpc

MASTER = sys.argv[2]
SAY = threading.Lock()
BIG = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]


def say(**what):
    with SAY:
        print(json.dumps(what), flush=True)


def bearer(token):
    return [("authorization", f"Bearer {token}")] if token else []


class Worker(rpc.WorkerNodeServiceServicer):
    """Serves WorkerNodeService in one of several manners, which ``mode`` names."""

    def __init__(self, mode, node_id, token, channel):
        self.mode = mode
        self.node_id = node_id
        self.metadata = bearer(token)
        self.master = rpc.MasterNodeServiceStub(channel)
        self.reports = rpc.WorkerNodeServiceStub(channel)
        self.stopped = {}

    def ExecuteTask(self, request, context):
        shown = dict(context.invocation_metadata()).get("authorization", "")
        say(
            event="execute",
            node_id=self.node_id,
            task_id=request.task_id,
            size=len(request.task_data),
            head=request.task_data[:64].decode(errors="replace"),
            token=shown.removeprefix("Bearer "),
        )
        self.stopped[request.task_id] = threading.Event()
        match self.mode:
            case "refusing":
                return pb.ExecuteTaskResponse(success=False, message="no room here")
            case "aborting":
                context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "come back later")
            case "dying":
                os._exit(1)
            case "mute":
                context.add_callback(self.stopped[request.task_id].set)
                self.stopped[request.task_id].wait(60)
            case "blocking":
                self.run(request)
            case "slow":
                time.sleep(1.0)
                threading.Thread(target=self.run, args=(request,), daemon=True).start()
            case "good":
                threading.Thread(target=self.run, args=(request,), daemon=True).start()
        return pb.ExecuteTaskResponse(success=True, message="taken")

    def StopTaskExecution(self, request, context):
        say(event="stop", node_id=self.node_id, task_id=request.task_id)
        if self.mode == "deaf":
            time.sleep(30)
        known = self.stopped.get(request.task_id)
        if known is None:
            return pb.StopTaskExecutionResponse(success=False, message="no such task")
        known.set()
        return pb.StopTaskExecutionResponse(success=True, message="stopping")

    def run(self, request):
        """Run a Python script, and report as it goes."""
        task_id = request.task_id
        process = subprocess.Popen(
            [sys.executable, "-u", "-"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        process.stdin.write(request.task_data.decode())
        process.stdin.close()
        threading.Thread(target=self.end_when_stopped, args=(task_id, process)).start()
        for number, line in enumerate(process.stdout, start=1):
            self.master.StoreOutput(
                pb.StoreOutputRequest(task_id=task_id, output=line, sequence=number),
                metadata=self.metadata,
            )
            self.reports.ReportRunningStatus(
                pb.RunningStatusRequest(
                    node_id=self.node_id, task_id=task_id, cpu_usage=75, memory_usage=60
                ),
                metadata=self.metadata,
            )
        status = process.wait()
        self.stopped[task_id].set()
        self.master.StoreLogs(
            pb.StoreLogsRequest(node_id=self.node_id, task_id=task_id, logs=f"exit {status}\n"),
            metadata=self.metadata,
        )
        self.master.StoreResult(
            pb.StoreResultRequest(task_id=task_id, result_data=b"\x00raw result\xff"),
            metadata=self.metadata,
        )
        done = self.master.TaskCompleted(
            pb.TaskCompletedRequest(task_id=task_id, node_id=self.node_id, success=not status),
            metadata=self.metadata,
        )
        say(event="completed", node_id=self.node_id, task_id=task_id, success=done.success)

    def end_when_stopped(self, task_id, process):
        self.stopped[task_id].wait()
        process.kill()


class Peer:
    """Does what it is told."""

    def __init__(self):
        self.channel = grpc.insecure_channel(MASTER, options=BIG)
        self.tasks = tasks_pb2_grpc.TasksStub(self.channel)
        self.held = []
        self.workers = {}

    def serve(self, mode, node_id, token, threads=8, port=0, is_small=False):
        if mode == "hanging":
            # It takes connections, and never says a word.
            listener = socket.create_server(("127.0.0.1", port))
            self.held.append(listener)
            return {"port": listener.getsockname()[1]}
        worker = Worker(mode, node_id, token, self.channel)
        options = [("grpc.so_reuseport", 0)]
        if not is_small:
            options += BIG
        server = grpc.server(ThreadPoolExecutor(threads), options=options)
        rpc.add_WorkerNodeServiceServicer_to_server(worker, server)
        bound = server.add_insecure_port(f"127.0.0.1:{port}")
        server.start()
        self.held.append(server)
        self.workers[node_id] = (worker, server)
        return {"port": bound}

    def close(self, node_id):
        _, server = self.workers.pop(node_id)
        server.stop(grace=0).wait()
        return {}

    def mode(self, node_id, mode):
        self.workers[node_id][0].mode = mode
        return {}

    def call(self, service, method, request, token="", zeros=0):
        """Any unary call. ``zeros``: so many bytes for the request's ``result_data``."""
        module, _, name = service.rpartition(".")
        files = {
            "nodepool": ("nodepool_pb2", "nodepool_pb2_grpc"),
            "hivemind.v1": (
                f"hivemind_v1.{name.lower()}_pb2",
                f"hivemind_v1.{name.lower()}_pb2_grpc",
            ),
        }[module]
        messages, stubs = (importlib.import_module(file) for file in files)
        kinds = {"ReportRunningStatus": "RunningStatusRequest"}
        kind = getattr(messages, kinds.get(method, f"{method}Request"))
        message = json_format.ParseDict(request, kind())
        if zeros:
            message.result_data = bytes(zeros)
        stub = getattr(stubs, f"{name}Stub")(self.channel)
        try:
            reply, made = getattr(stub, method).with_call(
                message, metadata=bearer(token), timeout=60
            )
        except grpc.RpcError as error:
            code = dict(error.trailing_metadata() or ()).get("hivemind-error-code")
            return {"status": error.code().name, "message": error.details(), "code": code}
        return {
            "status": "OK",
            "code": dict(made.trailing_metadata()).get("hivemind-error-code"),
            **json_format.MessageToDict(
                reply,
                preserving_proto_field_name=True,
                always_print_fields_with_no_presence=True,
            ),
        }

    def submit(self, token, script, filler=0, argv=(), **header):
        ask = header.pop("ask", {})
        head = json_format.ParseDict(
            {"kind": "PAYLOAD_KIND_SCRIPT", "filename": "x.py", "argv": argv, "ask": ask, **header},
            tasks_pb2.SubmitHeader(),
        )

        def messages():
            yield tasks_pb2.SubmitRequest(header=head)
            yield tasks_pb2.SubmitRequest(payload=script.encode())
            piece = b"#" * 1023 + b"\n"
            for _ in range(filler // (256 * 1024)):
                yield tasks_pb2.SubmitRequest(payload=piece * 256)

        made = self.tasks.Submit(messages(), metadata=bearer(token), timeout=60)
        return {"task_id": made.task_id}

    def watch(self, token, task_id):
        """The task at its end, and all its output."""
        output, task = b"", None
        request = tasks_pb2.WatchRequest(task_id=task_id, output=True)
        for item in self.tasks.Watch(request, metadata=bearer(token), timeout=60):
            if item.HasField("output"):
                output += item.output.data
            else:
                task = item.task
        return {"output": output.decode(), **self.shown(task)}

    def get(self, token, task_id):
        reply = self.tasks.Get(tasks_pb2.GetRequest(task_id=task_id), metadata=bearer(token))
        attempts = [json_format.MessageToDict(one) for one in reply.attempts]
        return {"attempts": attempts, **self.shown(reply.task)}

    def shown(self, task):
        return {
            "state": tasks_pb2.TaskState.Name(task.state).removeprefix("TASK_STATE_"),
            "attempt": task.attempt,
            "node_id": task.node_id,
            "reason": task.reason,
            "detail": task.detail,
            "crashes": task.crashes,
            "unconfirmed": task.unconfirmed,
        }

    def stop(self, token, task_id):
        self.tasks.Stop(tasks_pb2.StopRequest(task_id=task_id), metadata=bearer(token))
        return {}

    def download(self, token, task_id):
        pieces = self.tasks.Download(
            tasks_pb2.DownloadRequest(task_id=task_id), metadata=bearer(token), timeout=60
        )
        return {"zip": base64.b64encode(b"".join(piece.data for piece in pieces)).decode()}


def answer(peer, line):
    order = json.loads(line)
    number, what = order.pop("id"), order.pop("do")
    try:
        say(id=number, **getattr(peer, what)(**order))
    except Exception as error:
        say(id=number, failed=repr(error))


def main():
    peer = Peer()
    for line in sys.stdin:
        threading.Thread(target=answer, args=(peer, line), daemon=True).start()
    os._exit(0)


main()
