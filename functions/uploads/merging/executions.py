"""Starts long merges: executions of the state machine in ``statemachine/merge.asl.json``.

Permissions: ``states:StartExecution``.
"""

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from uploads.session import NO_TOTALS, Totals

if TYPE_CHECKING:
    from collections.abc import Callable

    from mypy_boto3_stepfunctions import SFNClient


@dataclass(frozen=True)
class Execution:
    """A long merge: the input of its execution and of every task.

    Another release may have started it: unknown members are ignored.
    """

    session_id: str
    owner: str
    attempt: int
    """The attempt that handed the session over. Every task acts for it."""
    batches: int
    """Exactly the ``seqNum`` below it are merged."""
    digest: str
    """Of their listing."""
    totals: Totals = NO_TOTALS
    """The totals that its finish stated. Version 1 has none."""
    version: int = 2

    @property
    def name(self) -> str:
        """Name of the execution: the same for every start by this attempt."""
        return f"{self.session_id}-{self.attempt}"


class MergeExecutions:
    """The executions of the stack's state machine."""

    def __init__(self, client: "Callable[[], SFNClient]", arn: str) -> None:
        self._make_client = client
        self._arn = arn

    @cached_property
    def _client(self) -> "SFNClient":
        # Most finishes need no client, and making one slows a cold start.
        return self._make_client()

    def start(self, execution: Execution) -> None:
        """Start ``execution``: 1 request. Starting it again does nothing."""
        try:
            self._client.start_execution(
                stateMachineArn=self._arn,
                name=execution.name,
                input=json.dumps({"execution": asdict(execution)}),
            )
        except self._client.exceptions.ExecutionAlreadyExists:
            # It was started before, and has ended.
            return
