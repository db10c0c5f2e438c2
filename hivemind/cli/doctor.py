"""``hivemind doctor``: can this machine run tasks, and if not, what would mend it."""

import click

from hivemind.cli.lazy import Command
from hivemind.cli.output import json_option


@click.command(cls=Command)
@json_option
def doctor(as_json: bool) -> int:
    """Say whether this machine can run tasks.

    Tries out what a worker needs, and says how to mend what is missing. Exits with 0 if tasks can
    run here, else with 1.
    """
    import trio

    import sandbox
    from hivemind.cli.output import output_for
    from hivemind.cli.own_cgroup import enter_own_cgroup

    enter_own_cgroup()
    findings = trio.run(sandbox.probe)
    output_for(as_json).findings(findings)
    return 0 if all(finding.ok for finding in findings) else 1
