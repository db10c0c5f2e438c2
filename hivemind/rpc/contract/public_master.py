"""MasterNodeService whole: what clients call of it, and what nodes report."""

from hivemind.rpc.contract.public_reports import (
    SPOOLED_REPORTS,
    PublicReportCalls,
    PublicReportHandlers,
)
from hivemind.rpc.contract.public_tasks import (
    SPOOLED_TASKS,
    PublicTaskCalls,
    PublicTaskHandlers,
)

SPOOLED_FIELDS = {**SPOOLED_TASKS, **SPOOLED_REPORTS}
"""Requests whose bytes go to a file as they arrive."""


class PublicMasterCalls(PublicTaskCalls, PublicReportCalls):
    """All eleven methods, to hand to ``rpc.server``."""

    def __init__(self, tasks: PublicTaskHandlers, reports: PublicReportHandlers) -> None:
        PublicTaskCalls.__init__(self, tasks)
        PublicReportCalls.__init__(self, reports)
