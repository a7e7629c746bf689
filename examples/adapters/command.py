"""An adapter of any command that takes a file and the URL: see docs/conformance.md.

gapless conformance --client "python examples/adapters/command.py bash examples/send.sh" URL

The command finds the token in GAPLESS_TOKEN and the size of a batch in BATCH_SIZE. Its output ends
with the name of the merged object.
"""

import json
import os
import re
import subprocess
import sys


def respond(request: dict) -> dict:
    """Do what one request says; returns the answer."""
    if request["command"] != "upload":
        return {"outcome": "unsupported"}
    size, token = str(request["batchSize"]), request["token"]
    ran = subprocess.run(
        [*sys.argv[1:], request["file"], request["url"]],
        env=os.environ | {"BATCH_SIZE": size, "GAPLESS_TOKEN": token},
        capture_output=True,
        text=True,
        check=False,
    )
    named = re.search(r"([0-9a-f]{32})\.ndjson\n$", ran.stdout)
    if ran.returncode == 0 and named:
        return {"outcome": "success", "sessionId": named[1]}
    return {"outcome": "failed", "detail": ran.stderr}


for line in sys.stdin:
    print(json.dumps(respond(json.loads(line))), flush=True)
