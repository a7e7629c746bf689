"""Sends an NDJSON file to Gapless: ``python send.py orders.ndjson http://localhost:3000``.

One record a line, no blank lines. Python 3.10 or later, nothing to install.
"""

import gzip
import json
import sys
import time
import uuid
from itertools import islice
from urllib.error import HTTPError
from urllib.request import Request, urlopen

SIZE = 10_000  # records in a batch: at most 4.5 MB when compressed


def call(method, url, body=None, headers={}):
    """Status and JSON of the answer; tries again where that can help."""
    for pause in (1, 2, 4, 8, 16, 32):
        try:
            request = Request(url, body, headers, method=method)
            with urlopen(request, timeout=40) as answer:
                return answer.status, json.loads(answer.read() or b"{}")
        except HTTPError as error:
            text = error.read().decode()
            if error.code != 429 and error.code < 500 and "session_finishing" not in text:
                sys.exit(f"{error.code}: {text}")
        except OSError:
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
    while missing:
        with open(path, "rb") as file:
            for n, lines in enumerate(iter(lambda: b"".join(islice(file, SIZE)), b"")):
                if any(gap["from"] <= n <= gap["to"] for gap in missing):
                    body, headers = gzip.compress(lines), {"Content-Encoding": "gzip"}
                    call("PUT", f"{url}/batches/{n}", body, headers)
        while (answer := call("POST", f"{url}/finish"))[0] == 202:
            time.sleep(2)
        if missing := answer[1].get("missing"):
            print(answer[1]["detail"])
    return answer[1]


result = send(sys.argv[1], f"{sys.argv[2]}/api/upload/sessions")
if result["validationResult"] != "Success":
    sys.exit(result["detail"])
print(f"{result['receivedRecord']} records in {result['batches']} batches: {result['key']}")
