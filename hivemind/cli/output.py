"""Everything that commands print on standard output, for people or as JSON.

A command asks ``output_for(as_json)`` for an ``Output`` and tells it what there is; how it looks is
decided here. What a task's own streams say goes by ``streams`` instead, as raw bytes.
"""

import json
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import click

from hivemind.cli import shapes
from hivemind.cli.tables import print_fields, print_table, write_out
from hivemind.core.wording import one_line

if TYPE_CHECKING:
    from hivemind.core.explanation import Explanation
    from hivemind.core.messages import (
        Balance,
        HistoryEntry,
        Identity,
        NodeView,
        Secret,
        TaskDetail,
    )
    from hivemind.core.records import Requirements, Task
    from hivemind.settings.origins import Setting
    from sandbox import Finding

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


class Output(Protocol):
    """One method for each thing that commands tell."""

    def tasks(self, tasks: Sequence["Task"]) -> None:
        """A list of tasks."""

    def task(self, detail: "TaskDetail") -> None:
        """One task with its attempts."""

    def explanation(self, task_id: str, explanation: "Explanation") -> None:
        """Why a task is where it is."""

    def nodes(self, nodes: Sequence["NodeView"]) -> None:
        """A list of nodes."""

    def identity(self, identity: "Identity", address: str) -> None:
        """Who one is."""

    def balance(self, balance: "Balance") -> None:
        """What an account has."""

    def history(self, entries: Sequence["HistoryEntry"]) -> None:
        """What an account gave and got."""

    def secret(self, key: str, secret: "Secret") -> None:
        """A secret that is shown once; ``key`` names it."""

    def findings(self, findings: Sequence["Finding"]) -> None:
        """What a machine can enforce."""

    def policies(self, policies: Mapping[str, Sequence["Setting"]]) -> None:
        """The values of policies, by their names."""


def output_for(as_json: bool) -> Output:
    """The output that the command line asks for."""
    return _JsonOutput() if as_json else _HumanOutput()


def say(line: str) -> None:
    """One line on standard output, there at once."""
    write_out([line])


class _JsonOutput:
    def tasks(self, tasks: Sequence["Task"]) -> None:
        self._print({"tasks": [shapes.task_shape(task) for task in tasks]})

    def task(self, detail: "TaskDetail") -> None:
        self._print(shapes.detail_shape(detail))

    def explanation(self, task_id: str, explanation: "Explanation") -> None:
        self._print(shapes.explanation_shape(task_id, explanation))

    def nodes(self, nodes: Sequence["NodeView"]) -> None:
        self._print({"nodes": [shapes.node_shape(node) for node in nodes]})

    def identity(self, identity: "Identity", address: str) -> None:
        self._print(shapes.identity_shape(identity, address))

    def balance(self, balance: "Balance") -> None:
        self._print(shapes.balance_shape(balance))

    def history(self, entries: Sequence["HistoryEntry"]) -> None:
        self._print({"movements": [shapes.movement_shape(entry) for entry in entries]})

    def secret(self, key: str, secret: "Secret") -> None:
        self._print(shapes.secret_shape(key, secret))

    def findings(self, findings: Sequence["Finding"]) -> None:
        self._print(shapes.findings_shape(findings))

    def policies(self, policies: Mapping[str, Sequence["Setting"]]) -> None:
        self._print(shapes.policies_shape(policies))

    def _print(self, document: shapes.Document) -> None:
        say(json.dumps(document, indent=2))


class _HumanOutput:
    def tasks(self, tasks: Sequence["Task"]) -> None:
        print_table(
            ("ID", "NAME", "STATE", "NODE", "AGE", "RAN"),
            [
                (
                    task.id,
                    task.name,
                    _state(task),
                    task.node_id,
                    _age(task.submitted_at),
                    _ran(task),
                )
                for task in tasks
            ],
            state_column=2,
        )

    def task(self, detail: "TaskDetail") -> None:
        from hivemind.core.sizes import format_cpus, format_duration, show_size

        task, needs = detail.task, detail.task.requirements
        print_fields(
            [
                ("id", task.id),
                ("name", task.name),
                ("account", task.account),
                ("state", _state(task)),
                ("because", task.detail),
                ("exit status", "" if task.exit_code is None else str(task.exit_code)),
                ("policy", task.policy),
                ("priority", str(task.priority)),
                (
                    "asked for",
                    f"{format_cpus(needs.cpu_millis)} CPU, {show_size(needs.memory_bytes)} memory, "
                    f"{show_size(needs.scratch_bytes)} scratch"
                    + (f", {needs.gpus} GPU {needs.gpu_name}".rstrip() if needs.gpus else ""),
                ),
                ("only on", _where(needs)),
                ("time limit", format_duration(task.wall_s)),
                ("submitted", _instant(task.submitted_at)),
                ("started", _instant(task.started_at)),
                ("finished", _instant(task.finished_at)),
            ]
        )
        if detail.attempts:
            say("")
            print_table(
                ("ATTEMPT", "NODE", "OUTCOME", "EXIT", "WALL", "CPU", "PEAK MEMORY", "DETAIL"),
                [
                    (
                        str(attempt.number),
                        attempt.node_id,
                        "under way" if attempt.outcome is None else attempt.outcome.value,
                        "" if attempt.exit_code is None else str(attempt.exit_code),
                        f"{attempt.usage.wall_s:.2f}s",
                        f"{attempt.usage.cpu_s:.2f}s",
                        show_size(attempt.usage.memory_peak_bytes),
                        f"{attempt.detail} [unconfirmed]".strip()
                        if attempt.unconfirmed
                        else attempt.detail,
                    )
                    for attempt in detail.attempts
                ],
                state_column=2,
            )

    def explanation(self, task_id: str, explanation: "Explanation") -> None:
        say(one_line(f"{task_id}: {explanation.headline}"))
        told = [cause.text for cause in explanation.causes]
        for text in told if told != [explanation.headline] else ():
            say(one_line(f"- {text}"))

    def nodes(self, nodes: Sequence["NodeView"]) -> None:
        from hivemind.core.sizes import format_cpus, show_size

        print_table(
            (
                "ID",
                "NAME",
                "STATUS",
                "OWNER",
                "RUNNING",
                "CPUS",
                "MEMORY",
                "GPUS",
                "TRUST",
                "LIMITS",
            ),
            [
                (
                    node.id,
                    node.name,
                    "draining" if node.draining and node.status == "online" else node.status,
                    node.account,
                    f"{node.running}/{node.capacity.slots}",
                    format_cpus(node.capacity.cpu_millis),
                    show_size(node.capacity.memory_bytes),
                    str(node.capacity.gpus),
                    str(node.trust),
                    _limits(node),
                )
                for node in nodes
            ],
            state_column=2,
        )

    def identity(self, identity: "Identity", address: str) -> None:
        print_fields(
            [
                ("account", identity.account),
                ("role", identity.role.value),
                ("email", identity.email),
                ("master", address),
                ("token good until", _instant(identity.expires_at)),
            ]
        )

    def balance(self, balance: "Balance") -> None:
        from hivemind.core.cpt import show_cpt

        print_fields(
            [
                ("account", balance.account),
                ("balance", show_cpt(balance.balance_ucpt)),
                ("held for tasks", show_cpt(balance.held_ucpt)),
            ]
        )

    def history(self, entries: Sequence["HistoryEntry"]) -> None:
        from hivemind.core.cpt import format_cpt

        print_table(
            ("WHEN", "WHAT", "CPT", "ACCOUNT", "TASK", "MEMO"),
            [
                (
                    _instant(entry.at),
                    entry.kind.value,
                    ("+" if entry.change_ucpt > 0 else "") + format_cpt(entry.change_ucpt),
                    entry.other,
                    entry.task_id,
                    entry.memo,
                )
                for entry in entries
            ],
        )

    def secret(self, key: str, secret: "Secret") -> None:
        say(secret.text)

    def findings(self, findings: Sequence["Finding"]) -> None:
        for finding in findings:
            how = "ok" if finding.ok else "missing"
            say(f"{how:8}{one_line(f'{finding.name}: {finding.detail}')}")
            if finding.remedy:
                say(f"{'':8}{one_line(f'to mend it: {finding.remedy}')}")
        missing = [finding.name for finding in findings if not finding.ok]
        if not missing:
            say("tasks can run here")
        elif missing == ["cgroup"]:
            say("tasks can run here with --limits best-effort alone")
        else:
            say("no task can run here")

    def policies(self, policies: Mapping[str, Sequence["Setting"]]) -> None:
        from hivemind.cli.policy_values import shown_value

        print_table(
            ("POLICY", "KEY", "VALUE", "FROM"),
            [
                (name, setting.key, shown_value(setting), setting.said_by)
                for name, settings in policies.items()
                for setting in settings
            ],
        )


def _limits(node: "NodeView") -> str:
    limits = "its own" if node.port else node.limits
    # Of a worker that is away nothing is known; one with an address that said nothing has none.
    is_unknown = not node.sandbox and not node.port
    return limits if node.sandbox == "enabled" or is_unknown else f"{limits}, no sandbox"


def _state(task: "Task") -> str:
    text = task.state.value
    if not task.state.is_end:
        return f"{text}, stopping" if task.stop_requested else text
    if task.exit_code:
        return f"{text} ({task.exit_code})"
    if task.reason is not None and task.reason.value not in {"exited", text}:
        return f"{text} ({task.reason.value.replace('_', ' ')})"
    return text


def _where(needs: "Requirements") -> str:
    wishes = [f"nodes of {needs.only_account}"] if needs.only_account else []
    if needs.least_trust:
        wishes.append(f"nodes trusted {needs.least_trust} or more")
    return ", ".join(wishes)


def _age(at: float) -> str:
    seconds = max(0, int(time.time() - at))
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def _ran(task: "Task") -> str:
    if task.started_at is None:
        return ""
    until = time.time() if task.finished_at is None else task.finished_at
    return f"{max(0.0, until - task.started_at):.1f}s"


def _instant(at: float | None) -> str:
    if not at:
        return ""
    return time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(at))
