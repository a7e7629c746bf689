"""Sessions, plans and executions that another release wrote.

``release_before.json`` is what the previous release left in S3 and DynamoDB of a session in every
state. The next release is simulated by unknown members everywhere; they must be kept and ignored.
"""

import base64
import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import boto3
import pytest

from tests.conftest import MotoStack
from tests.proof.world import Clock, History, Said, World
from tests.state_machine import StateMachine

BEFORE: Final[dict[str, dict[str, Any]]] = json.loads(
    (Path(__file__).parent / "release_before.json").read_text(encoding="utf-8")
)
NEW: Final[dict[str, Any]] = {
    "aFlag": {"BOOL": True},
    "aShare": {"N": "0.25"},
    "nothing": {"NULL": True},
    "names": {"SS": ["a", "b"]},
    "aList": {"L": [{"S": "a"}]},
    "aMap": {"M": {"deep": {"N": "-1"}}},
}
"""Unknown members of every type."""


def item_of(left: Mapping[str, Any], *, after: bool, upload_id: str) -> dict[str, Any]:
    """The stored item with its times moved to now."""
    late = Clock.START - left["now"]
    item: dict[str, Any] = json.loads(json.dumps(left["item"]))
    for name in {"createdAt", "expiresAt", "leaseUntil"} & item.keys():
        item[name] = {"N": str(int(item[name]["N"]) + late)}
    if "upload" in item:
        item["upload"]["M"]["upload_id"] = {"S": upload_id}
    if "result" in item:
        result = json.loads(zlib.decompress(base64.b64decode(item["result"]["B"])))
        if after:
            result["new"] = {"deep": [1]}
        item["result"] = {"B": zlib.compress(json.dumps(result).encode())}
    if after:
        for mapping in ("decision", "upload"):
            if mapping in item:
                item[mapping]["M"] |= NEW
        item |= NEW | {"version": {"N": "9"}, "batchesUntil": item["expiresAt"]}
        item["expiresAt"] = {"N": str(int(item["expiresAt"]["N"]) + 86_400)}
    return item


def newer(kind: str, body: str) -> str:
    """A plan's share, or its outcome, as the next release might write it."""
    more = {"new": 1}
    rows = [
        [row[0], row[1], [[*batch, more] for batch in row[2]], more]
        if kind == "share"
        else [*row[:4], row[1], row[3], more]
        for row in json.loads(body)
    ]
    named = {"share": "parts", "done": "batches"}[kind]
    return json.dumps({"version": 9, named: rows, "new": []})


def put(local: MotoStack, left: Mapping[str, Any], *, after: bool) -> str:
    """Restore what was left; return the id of its upload, or an empty string."""
    session_id = left["sessionId"]
    for bucket, objects in (
        (local.batches_bucket, left["batches"]),
        (local.merged_bucket, left["merged"]),
    ):
        for key, stored in objects.items():
            body = stored["body"]
            kind = key.rpartition("/")[2].partition("-")[0]
            if after and kind in {"share", "done"}:
                body = newer(kind, body)
            prefix = "x-amz-meta-"
            metadata = {
                name.removeprefix(prefix): value
                for name, value in stored["metadata"].items()
                if name.startswith(prefix)
            }
            local.s3.put_object(Bucket=bucket, Key=key, Body=body.encode(), Metadata=metadata)
    upload_id = ""
    if "upload" in left["item"]:
        key = f"{session_id}.ndjson"
        upload_id = local.s3.create_multipart_upload(
            Bucket=local.merged_bucket,
            Key=key,
            Metadata={"digest": left["execution"]["execution"]["digest"]},
            ChecksumAlgorithm="CRC32",
            ChecksumType="FULL_OBJECT",
        )["UploadId"]
        done = {name.rpartition("/")[2] for name in left["batches"]}
        for name, stored in left["batches"].items():
            share = name.rpartition("/")[2]
            if share.startswith("share-") and share.replace("share", "done") in done:
                for number, _, batches in json.loads(stored["body"]):
                    bodies = [f"{session_id}/{seq_num:08d}" for seq_num, _, _ in batches]
                    local.s3.upload_part(
                        Bucket=local.merged_bucket,
                        Key=key,
                        UploadId=upload_id,
                        PartNumber=number,
                        Body="".join(left["batches"][name]["body"] for name in bodies).encode(),
                    )
    boto3.client("dynamodb").put_item(
        TableName=local.table.name, Item=item_of(left, after=after, upload_id=upload_id)
    )
    return upload_id


def run_tasks(
    world: World, left: Mapping[str, Any], history: History, upload_id: str, *, after: bool
) -> None:
    """Run the tasks that Step Functions has not called yet."""
    more: dict[str, Any] = {"version": 9, "new": {"deep": [1]}} if after else {}
    said = {"totals": {"records": history.total, "batches": None, **more}} if after else {}
    execution = {"execution": left["execution"]["execution"] | said | more}
    process = world.processes[1]
    if "planned" not in left:
        functions = {
            f"${{{name.capitalize()}Function}}": lambda given, name=name: process.task(name, given)
            for name in process.tasks
        }
        StateMachine(functions, world.read_object).run(execution)
        return
    planned = left["planned"] | {"upload_id": upload_id} | more
    for share in range(planned["shares"]):
        process.task("compose", {**execution, "upload_id": upload_id, "share": share, **more})
    process.task("complete", {**execution, "planned": planned, **more})
    assert world.check(left["sessionId"], history).state == "FINISHED"


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("name", BEFORE)
def test_what_another_release_has_left(
    world: World, local: MotoStack, name: str, *, after: bool
) -> None:
    left = BEFORE[name]
    session_id, item = left["sessionId"], left["item"]
    size = int(item["batchSize"]["N"]) if "batchSize" in item else None
    history = History(int(item["totalRecord"]["N"]), size, world.stream_now())
    history.manifest_of_before = f"{session_id}.manifest.json" in left["merged"]
    history.sent += [
        (int(key[-8:]), stored["body"].encode())
        for key, stored in left["batches"].items()
        if key.startswith(session_id)
    ]
    if after:
        # A newer client may repeat the total.
        history.says = Said(history.total)
    upload_id = put(local, left, after=after)
    try:
        process = world.processes[0]
        status = world.status(process, history, session_id)
        assert (status.status, status.body["state"]) == (200, item["state"]["S"])
        assert status.body["finish"] is None or status.body["finish"]["sessionId"] == session_id
        if item["state"]["S"] == "OPEN":
            first = int(min(key for key in left["batches"])[-8:])
            data = json.loads(f"[{left['batches'][f'{session_id}/{first:08d}']['body']}]")
            sent = world.send(process, history, session_id, first, data)
            assert sent.status == 204, sent
        if "execution" in left:
            run_tasks(world, left, history, upload_id, after=after)
        if name == "finished":
            # The table had no stream then: the lifecycle rule deletes the batches.
            answers = [world.finish(process, history, session_id) for _ in range(2)]
            assert answers[0] == answers[1]
            assert answers[0].result == "Success"
            world.check(session_id, history)
        elif history.total and history.total < 100:
            whole = {0: [0], 1: [1], 2: [2]} if history.total == 3 else {0: [0], 1: [1]}
            stored = {seq_num for seq_num, _ in history.sent}
            missing = {n: records for n, records in whole.items() if n not in stored}
            end = world.settle(session_id, history, missing)
            assert end == ("session_aborted" if name == "aborted" else "Success")
        facts = world.facts(session_id)
        assert facts.item is not None
        if after:
            raw = boto3.client("dynamodb").get_item(
                TableName=local.table.name, Key={"sessionId": {"S": session_id}}
            )["Item"]
            assert NEW.items() <= raw.items()
            if "decision" in item:
                assert NEW.items() <= raw["decision"]["M"].items()
    finally:
        world.remove(session_id)


def test_the_fixture_has_every_state() -> None:
    states = {left["item"]["state"]["S"] for left in BEFORE.values()}
    assert states == {"OPEN", "FINISHING", "FINISHED", "ABORTED"}
