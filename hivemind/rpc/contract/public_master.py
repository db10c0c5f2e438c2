"""MasterNodeService whole: what clients call of it, and what nodes report."""

from collections.abc import Callable, Mapping

from hivemind.rpc.contract.public_reports import (
    SPOOLED_REPORTS,
    PublicReportCalls,
    PublicReportHandlers,
)
from hivemind.rpc.contract.public_tasks import (
    PublicTaskCalls,
    PublicTaskHandlers,
    spooled_uploads,
)
from hivemind.rpc.spool import SpooledField


def spooled_fields(policy_bytes: Callable[[], int]) -> Mapping[str, SpooledField]:
    """Requests whose bytes go to a file as they arrive, by method; see ``spooled_uploads``."""
    return {**spooled_uploads(policy_bytes), **SPOOLED_REPORTS}


class PublicMasterCalls(PublicTaskCalls, PublicReportCalls):
    """All eleven methods, to hand to ``rpc.server``."""

    def __init__(self, tasks: PublicTaskHandlers, reports: PublicReportHandlers) -> None:
        PublicTaskCalls.__init__(self, tasks)
        PublicReportCalls.__init__(self, reports)
