"""The spawner's loop: one message in, one answer out, and a notice for each process that ended.

Messages are JSON objects, one per datagram of a SOCK_SEQPACKET socket, with descriptors beside
them. What is long (a run's description) comes in a memory file. The loop never waits for a task:
mounting and forking are all that it does itself.
"""

# Descriptors and plain strings throughout; pathlib would slow the start.

from __future__ import annotations

import json
import os
import platform
import select
import socket
from typing import Any

from sandbox.spawner import cell, child, collect, house, linux, seccomp
from sandbox.spawner.datagrams import receive

_MESSAGE_BYTES = 1 << 16
_MAX_DESCRIPTORS = 32


class Spawner:
    """Serves one pool until its socket closes."""

    def __init__(self, link: socket.socket, config: dict[str, Any], bwrap_path: str) -> None:
        self._link = link
        self._as_root: bool = config["as_root"]
        self._bwrap_path = bwrap_path
        self._package = config["package"]
        self._filters = {
            mode: seccomp.build_filter(platform.machine(), mode=mode) for mode in seccomp.MODES
        }
        self._children: dict[int, tuple[int, int]] = {}  # pidfd: (pid, id)
        self._poll = select.poll()
        self._poll.register(link, select.POLLIN)

    def serve(self) -> None:
        """Answer messages and reap children until the pool closes its end."""
        while True:
            for descriptor, _ in self._poll.poll():
                if descriptor != self._link.fileno():
                    self._reap(descriptor)
                elif not self._answer_one():
                    return

    def _answer_one(self) -> bool:
        data, descriptors = receive(self._link, _MESSAGE_BYTES, _MAX_DESCRIPTORS)
        if not data:
            return False
        message = json.loads(data)
        answer: dict[str, Any] = {"id": message["id"], "answer": message["op"]}
        pidfd = -1
        try:
            if message["op"] == "start":
                pidfd = self._start(message, descriptors)
            elif message["op"] == "start_cell":
                pidfd = self._start_cell(message, descriptors)
            elif message["op"] == "collect":
                pidfd = self._collect(message, descriptors)
            else:
                house.unmount_slot(message["slot"])
        except OSError as error:
            answer["error"] = str(error)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        self._send(answer, pidfd)
        return True

    def _send(self, answer: dict[str, Any], pidfd: int = -1) -> None:
        data = json.dumps(answer).encode()
        if pidfd >= 0:
            socket.send_fds(self._link, [data], [pidfd])
        else:
            self._link.send(data)

    def _start(self, message: dict[str, Any], descriptors: list[int]) -> int:
        body, report, stdin, stdout, stderr, *cgroups = descriptors
        with os.fdopen(body, "rb", closefd=False) as file:
            start = json.load(file)
        uid, slot = message["uid"], message["slot"]
        quotas = {name: (size, inodes) for name, size, inodes in start["quotas"]}
        sources = [os.path.realpath(source) for source, _ in start["binds"]]
        house.mount_slot(slot, uid, quotas, sources)
        into = cgroups.pop(0) if message["into_cgroup"] else None
        pid, pidfd = linux.clone(linux.CLONE_NEWPID, into)
        if pid == 0:
            child.become_sandbox(
                start,
                bwrap_path=self._bwrap_path,
                filter_program=self._filters[start["seccomp"]],
                as_root=self._as_root,
                slot=slot,
                uid=uid,
                report=report,
                streams=(stdin, stdout, stderr),
                joins=cgroups,
            )
        return self._watch(pid, pidfd, message["id"])

    def _start_cell(self, message: dict[str, Any], descriptors: list[int]) -> int:
        report, link, *cgroups = descriptors
        slot, uid = message["slot"], message["uid"]
        cell.install_launcher(self._package)
        sources = [os.path.realpath(source) for source, _ in message["binds"]]
        house.mount_slot(slot, uid, {}, sources)
        into = cgroups.pop(0) if message["into_cgroup"] else None
        pid, pidfd = linux.clone(linux.CLONE_NEWPID, into)
        if pid == 0:
            cell.become_cell(
                message,
                bwrap_path=self._bwrap_path,
                as_root=self._as_root,
                slot=slot,
                uid=uid,
                report=report,
                link=link,
                keep_cgroup_ns=message["keep_cgroup_ns"],
                joins=cgroups,
            )
        return self._watch(pid, pidfd, message["id"])

    def _collect(self, message: dict[str, Any], descriptors: list[int]) -> int:
        report, destination, *kept = descriptors
        # What ran in a cell left its folder behind as a descriptor, what ran alone as a mount.
        folder = f"/proc/self/fd/{kept[0]}" if kept else house.slot_path(message["slot"]) + "/task"
        pid, pidfd = linux.clone(0)
        if pid == 0:
            collect.collect_and_exit(
                folder,
                message["folder"],
                message["outputs"],
                destination,
                report,
                message["max_bytes"],
                message["max_files"],
            )
        return self._watch(pid, pidfd, message["id"])

    def _watch(self, pid: int, pidfd: int, number: int) -> int:
        self._children[pidfd] = (pid, number)
        self._poll.register(pidfd, select.POLLIN)
        return pidfd

    def _reap(self, pidfd: int) -> None:
        pid, number = self._children.pop(pidfd)
        self._poll.unregister(pidfd)
        os.close(pidfd)
        _, status, usage = os.wait4(pid, 0)
        self._send(
            {
                "id": number,
                "answer": "ended",
                "status": status,
                "cpu_s": usage.ru_utime + usage.ru_stime,
                "memory_peak_bytes": usage.ru_maxrss * 1024,
            }
        )
