"""The sessions function: create, list, show, abort; link to the merged file, or delete it."""

import os

from uploads import startup
from uploads.config import Config
from uploads.decode.create import SESSION_ALLOWANCE, read_session_request
from uploads.decode.list_query import read_list_request
from uploads.http import Handler, Request, Response, location, make_handler, respond
from uploads.session import State
from uploads.wiring import Wiring


def _link(request: Request, found: dict[str, str], vary: str) -> Response:
    if request.accepts("application/json"):
        return respond(200, found, vary=vary)
    return respond(307, location=found["url"], vary=vary)


def build(wiring: Wiring) -> Handler:
    """The handler of the sessions function."""
    lifecycle = wiring.lifecycle

    def create(request: Request) -> Response:
        owner = request.owner
        asked = read_session_request(request.body(SESSION_ALLOWANCE).content)
        created = lifecycle.create(owner, asked, request.idempotency())
        return respond(201, created, location=location(str(created["sessionId"])))

    def list_sessions(request: Request) -> Response:
        owner = request.owner_of_a_list
        return respond(200, lifecycle.page(owner, read_list_request(request.query)))

    def status(request: Request) -> Response:
        session = lifecycle.find(request.session_id, request.owner)
        if session.state is State.FINISHING:
            request.count_finishing(session.finishing_since, wiring.clock())
        return respond(200, lifecycle.status(session))

    def file(request: Request) -> Response:
        takes_gzip = request.accepts_coding("gzip")
        found = lifecycle.file(request.session_id, request.owner, takes_gzip=takes_gzip)
        return _link(request, found, "Accept, Accept-Encoding")

    def manifest(request: Request) -> Response:
        return _link(request, lifecycle.manifest(request.session_id, request.owner), "Accept")

    def abort(request: Request) -> Response:
        lifecycle.abort(request.session_id, request.owner)
        return respond(204)

    def delete_file(request: Request) -> Response:
        lifecycle.delete_file(request.session_id, request.owner)
        return respond(204)

    operations = {
        "POST /api/upload/sessions": create,
        "GET /api/upload/sessions": list_sessions,
        "GET /api/upload/sessions/{sessionId}": status,
        "GET /api/upload/sessions/{sessionId}/file": file,
        "GET /api/upload/sessions/{sessionId}/manifest": manifest,
        "DELETE /api/upload/sessions/{sessionId}": abort,
        "DELETE /api/upload/sessions/{sessionId}/file": delete_file,
    }
    return make_handler(operations, wiring.config)


lambda_handler = build(Wiring(Config.from_env(os.environ)))
startup.ended()
