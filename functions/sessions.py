"""The sessions function: create, show, link to what was merged, abort."""

import os
import secrets
from collections.abc import Callable

from uploads import errors, gaps, limits, protocol
from uploads.config import Config
from uploads.http import Answer, Handler, Request, answer, entry, location, timestamp
from uploads.records import SESSION_ALLOWANCE, read_session_request
from uploads.session import Session, State
from uploads.wiring import Wiring


class Sessions:
    """The operations of the sessions function."""

    def __init__(self, wiring: Wiring) -> None:
        self._config = wiring.config
        self._clock = wiring.clock
        self._sessions = wiring.sessions
        self._batches = wiring.batches
        self._links = wiring.merged_for_callers
        self._wiring = wiring

    def create(self, request: Request) -> Answer:
        owner = request.owner
        asked = read_session_request(request.body(SESSION_ALLOWANCE))
        now = self._clock()
        session = Session(
            session_id=secrets.token_hex(16),
            owner=owner,
            total_record=asked.totalRecord,
            batch_size=asked.batchSize,
            created_at=now,
            batches_until=now + self._config.session_lifetime,
            expires_at=now + self._config.session_lifetime + limits.GRACE_SECONDS,
        )
        session.check_batches()
        self._sessions.create(session)
        return answer(
            201,
            {
                "sessionId": session.session_id,
                "expiresAt": timestamp(session.ends_at),
                "limits": {
                    "maxBodyBytes": limits.MAX_BODY_BYTES,
                    "maxInflatedBytes": limits.MAX_INFLATED_BYTES,
                    "maxSeqNum": limits.MAX_SEQ_NUM,
                },
            },
            location=location(session.session_id),
        )

    def status(self, request: Request) -> Answer:
        session = self._sessions.get(request.session_id, request.owner)
        session.require_unexpired(self._clock())
        if session.state is State.FINISHING:
            request.count_finishing(session.finishing_since, self._clock())
        missing: list[gaps.Range] = []
        batches = session.decision.batches if session.decision else 0
        if not session.decision and session.state in {State.OPEN, State.FINISHING}:
            listing = self._batches.list(session.session_id, session.expected_batches)
            present = [batch.seq_num for batch in listing]
            missing = list(gaps.missing(present, session.expected_batches))
            batches = len(present)
        return answer(
            200,
            {
                "sessionId": session.session_id,
                "state": session.state,
                "totalRecord": session.total_record,
                "batchSize": session.batch_size,
                "createdAt": timestamp(session.created_at),
                "expiresAt": timestamp(session.ends_at),
                "batches": batches,
                **gaps.report(missing),
                "merge": self._progress(session),
                "finish": self._wiring.reports.whole(session),
            },
        )

    def _progress(self, session: Session) -> dict[str, int] | None:
        """How far a long merge is; None where none runs."""
        if not session.upload:
            return None
        done = self._wiring.merged.parts_done(session.session_id, session.upload.upload_id)
        return None if done is None else {"parts": session.upload.parts, "done": done}

    def file(self, request: Request) -> Answer:
        return self._link(request, self._links.key)

    def manifest(self, request: Request) -> Answer:
        return self._link(request, self._links.manifest_key)

    def _link(self, request: Request, key: Callable[[str], str]) -> Answer:
        session = self._sessions.get(request.session_id, request.owner)
        now = self._clock()
        if session.require_unexpired(now).state is not State.FINISHED:
            raise errors.NotFinishedError(
                "The session was aborted, so there will be no merged object. Create a new one."
                if session.state is State.ABORTED
                else "There is no merged object before finish has answered Success."
            )
        url = self._links.presign(key(session.session_id))
        if request.accepts("application/json"):
            expires = timestamp(now + limits.PRESIGNED_URL_SECONDS)
            return answer(200, {"url": url, "expiresAt": expires}, vary="Accept")
        return answer(307, location=url, vary="Accept")

    def abort(self, request: Request) -> Answer:
        protocol.abort(
            self._sessions,
            self._batches,
            lambda: self._wiring.merged,
            request.session_id,
            request.owner,
            self._clock,
        )
        return answer(204)


def build(wiring: Wiring) -> Handler:
    """The handler of the sessions function."""
    sessions = Sessions(wiring)
    return entry(
        {
            "POST /api/upload/sessions": sessions.create,
            "GET /api/upload/sessions/{sessionId}": sessions.status,
            "GET /api/upload/sessions/{sessionId}/file": sessions.file,
            "GET /api/upload/sessions/{sessionId}/manifest": sessions.manifest,
            "DELETE /api/upload/sessions/{sessionId}": sessions.abort,
        },
        wiring.config,
    )


lambda_handler = build(Wiring(Config.from_env(os.environ)))
