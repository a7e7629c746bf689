"""Sends an NDJSON file to Gapless: ``python send.py orders.ndjson http://localhost:3000``.

One record a line, no blank lines. Python 3.10 or later, nothing to install. GAPLESS_TOKEN is the
bearer token, if the service wants one.
"""

import gzip
import json
import os
import sys
import time
import uuid
from http.client import HTTPException
from itertools import islice
from urllib.request import HTTPErrorProcessor, Request, build_opener

SIZE = int(os.environ.get("BATCH_SIZE", "10000"))  # records: at most 4.5 MB when compressed
TOKEN = {"Authorization": f"Bearer {os.environ.get('GAPLESS_TOKEN', '')}"}


class EveryStatus(HTTPErrorProcessor):
    """No status is an exception, and no redirect is followed."""

    def http_response(self, request, response):
        return response

    https_response = http_response


opener = build_opener(EveryStatus)


def call(method, url, body=None, headers={}):
    """Status and JSON of the answer; tries again where that can help."""
    for pause in (1, 2, 4, 8, 16, 32):
        try:
            request = Request(url, body, TOKEN | headers, method=method)
            with opener.open(request, timeout=40) as answer:
                status, text = answer.status, answer.read()
            if 200 <= status < 300:
                return status, json.loads(text or b"{}")
            if status != 429 and status < 500 and b"session_finishing" not in text:
                sys.exit(f"{status}: {text.decode()}")
            wait = answer.headers.get("Retry-After", "")
            pause = max(pause, int(wait) if wait.isdecimal() else 0)
        except (OSError, HTTPException):
            pass  # No answer. The request may have worked; sending it again is safe.
        time.sleep(pause)
    sys.exit(f"{url} does not answer")


def send(path, api):
    """The answer of the last finish."""
    with open(path, "rb") as file:
        total = sum(1 for _ in file)
    wanted = json.dumps({"totalRecord": total, "batchSize": SIZE}).encode()
    _, session = call("POST", api, wanted, {"Idempotency-Key": uuid.uuid4().hex})
    url = f"{api}/{session['sessionId']}"
    missing = [{"from": 0, "to": total // SIZE}]
    while True:
        with open(path, "rb") as file:
            for n, lines in enumerate(iter(lambda: b"".join(islice(file, SIZE)), b"")):
                if any(gap["from"] <= n <= gap["to"] for gap in missing):
                    body, headers = gzip.compress(lines), {"Content-Encoding": "gzip"}
                    call("PUT", f"{url}/batches/{n}", body, headers)
        status, result = call("POST", f"{url}/finish")
        while status == 202 or result.get("reason") == "merge_failed":
            time.sleep(2)
            status, result = call("POST", f"{url}/finish")
        missing = result.get("missing")
        if not missing:
            return result
        print(result["detail"])


result = send(sys.argv[1], f"{sys.argv[2]}/api/upload/sessions")
if result["validationResult"] != "Success":
    sys.exit(result["detail"])
print(f"{result['receivedRecord']} records in {result['batches']} batches: {result['key']}")
