"""The sessions function: create, show, link to what was merged, abort."""

import os
from collections.abc import Callable

from uploads import startup
from uploads.config import Config
from uploads.decode.create import SESSION_ALLOWANCE, read_session_request
from uploads.http import Handler, Request, Response, location, make_handler, respond
from uploads.session import State
from uploads.wiring import Wiring


def build(wiring: Wiring) -> Handler:
    """The handler of the sessions function."""
    lifecycle, links = wiring.lifecycle, wiring.presigning_store

    def create(request: Request) -> Response:
        owner = request.owner
        created = lifecycle.create(owner, read_session_request(request.body(SESSION_ALLOWANCE)))
        return respond(201, created, location=location(str(created["sessionId"])))

    def status(request: Request) -> Response:
        session = lifecycle.find(request.session_id, request.owner)
        if session.state is State.FINISHING:
            request.count_finishing(session.finishing_since, wiring.clock())
        return respond(200, lifecycle.status(session))

    def link(key: Callable[[str], str]) -> Callable[[Request], Response]:
        def answer(request: Request) -> Response:
            found = lifecycle.link(request.session_id, request.owner, key)
            if request.accepts("application/json"):
                return respond(200, found, vary="Accept")
            return respond(307, location=found["url"], vary="Accept")

        return answer

    def abort(request: Request) -> Response:
        lifecycle.abort(request.session_id, request.owner)
        return respond(204)

    operations = {
        "POST /api/upload/sessions": create,
        "GET /api/upload/sessions/{sessionId}": status,
        "GET /api/upload/sessions/{sessionId}/file": link(links.key),
        "GET /api/upload/sessions/{sessionId}/manifest": link(links.manifest_key),
        "DELETE /api/upload/sessions/{sessionId}": abort,
    }
    return make_handler(operations, wiring.config)


lambda_handler = build(Wiring(Config.from_env(os.environ)))
startup.ended()
