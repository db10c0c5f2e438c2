# ruff: noqa: ANN001, ANN201, ANN202
"""A grpcio server in its own process: prints its port, answers "cancelled?", and on "stop" stops.

Usage: grpcio_server.py STUBS
"""

import importlib
import json
import sys
import threading  # noqa: TID251 - a foreign program, whose library is made of threads
from concurrent.futures import ThreadPoolExecutor

import grpc


def main():
    sys.path.insert(0, sys.argv[1])
    pb = importlib.import_module("echo_pb2")
    services = importlib.import_module("echo_pb2_grpc")
    cancelled = threading.Event()

    class Echo(services.EchoServicer):
        def Unary(self, request, context):
            if request.text == "refuse":
                context.set_trailing_metadata((("hivemind-error-code", "2001"),))
                context.abort(grpc.StatusCode.NOT_FOUND, "nöpe")
            if request.text == "hang":
                context.add_callback(cancelled.set)
                cancelled.wait(20)
            return pb.Pong(text=request.text, number=len(request.data))

        def Down(self, request, context):
            for number in range(request.count):
                yield pb.Pong(number=number, data=request.data)

        def Up(self, requests, context):
            return pb.Pong(number=sum(len(ping.data) for ping in requests))

        def Both(self, requests, context):
            for ping in requests:
                yield pb.Pong(text=ping.text)

    server = grpc.server(ThreadPoolExecutor(8))
    services.add_EchoServicer_to_server(Echo(), server)
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    for line in sys.stdin:
        if json.loads(line) == "cancelled?":
            print(json.dumps(cancelled.wait(10)), flush=True)
        else:
            server.stop(grace=10)


main()
