"""The adapter of the Python client: see docs/conformance.md.

gapless conformance --client "python examples/adapters/python_client.py" URL
"""

import json
import os
import sys
from pathlib import Path

import gapless


def respond(request: dict) -> dict:
    """Do what one request says; returns the answer."""
    url, file = request["url"], Path(request["file"])
    auth = gapless.TokenAuth(request["token"])
    os.environ["GAPLESS_STATE_DIR"] = str(file.parent / "state")
    try:
        match request["command"]:
            case "upload" | "resume":
                # A request to resume has the session's id.
                session_id = request.get("sessionId")
                size = request["batchSize"]
                result = gapless.upload(
                    file, url, auth=auth, batch_size=size, session_id=session_id
                )
                return {"outcome": "success", "sessionId": result.session_id}
            case "download":
                with gapless.Client(url, auth=auth) as client:
                    client.session(request["sessionId"]).download(request["output"])
                return {"outcome": "success"}
    except gapless.GaplessError as error:
        return {"outcome": "failed", "code": getattr(error, "code", ""), "detail": str(error)}
    return {"outcome": "unsupported"}


for line in sys.stdin:
    print(json.dumps(respond(json.loads(line))), flush=True)
