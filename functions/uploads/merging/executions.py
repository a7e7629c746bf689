"""The state machine that merges what one call cannot: ``statemachine/merge.asl.json``.

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
    """A long merge: the input of its execution, and of every task.

    Another release may have started it: members that are not known here are ignored.
    """

    session_id: str
    owner: str
    attempt: int
    """The one that handed the session over, and that every task acts for."""
    batches: int
    """Exactly the ``seqNum`` below it are merged."""
    digest: str
    """Of their listing."""
    totals: Totals = NO_TOTALS
    """What its finish said there is. Version 1 has none."""
    version: int = 2

    @property
    def name(self) -> str:
        """The same for every start of this attempt, so that a second one does nothing."""
        return f"{self.session_id}-{self.attempt}"


class MergeExecutions:
    """The executions of the stack's state machine."""

    def __init__(self, client: "Callable[[], SFNClient]", arn: str) -> None:
        self._make_client = client
        self._arn = arn

    @cached_property
    def _client(self) -> "SFNClient":
        # Most finishes never need one, and it would make the start of the function slower.
        return self._make_client()

    def start(self, execution: Execution) -> None:
        """Start ``execution``; again, to do nothing: 1 request."""
        try:
            self._client.start_execution(
                stateMachineArn=self._arn,
                name=execution.name,
                input=json.dumps({"execution": asdict(execution)}),
            )
        except self._client.exceptions.ExecutionAlreadyExists:
            # Started before, and ended since.
            return
