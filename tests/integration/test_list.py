"""The list of a caller's own sessions."""

import base64
import json
import os
import time
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, Final
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.api import Api
from tests.aws import AwsProxy
from tests.conftest import MotoStack
from tests.integration.test_events import CONTEXT
from uploads import cursor
from uploads.config import Config
from uploads.wiring import Wiring

Page = dict[str, Any]
MEMBERS: Final = {
    *("sessionId", "state", "totalRecord", "batchSize", "format", "metadata", "schema"),
    "createdAt",
    *("expiresAt", "fileDeletedAt"),
}


class Principal:
    """A caller with its own identity."""

    def __init__(self) -> None:
        import sessions  # noqa: PLC0415 - it reads the environment, which the stack sets

        self.user = f"AIDA{os.urandom(8).hex()}"
        self.owner = json.dumps(["iam", "123456789012", self.user])
        self.now = int(time.time())
        config = Config.from_env({**os.environ, "AUTH_MODE": "IAM"})
        self._handler = sessions.build(Wiring(config, lambda: self.now))

    def call(self, route: str, query: str = "", body: object = None, session_id: str = "") -> Page:
        iam = {"accountId": "123456789012", "userId": self.user}
        answer: Page = self._handler(
            {
                "routeKey": route,
                "rawQueryString": query,
                "pathParameters": {"sessionId": session_id},
                "requestContext": {"requestId": "r", "authorizer": {"iam": iam}},
                "body": json.dumps(body),
            },
            CONTEXT,
        )
        content = json.loads(answer["body"]) if "body" in answer else {}
        return content | ({"status": answer["statusCode"]} if "code" in content else {})

    def create(self, total: int = 1, **more: object) -> str:
        self.now += 1
        session_id: str = self.call(f"POST {Api.ROOT}", body={"totalRecord": total, **more})[
            "sessionId"
        ]
        return session_id

    def page(self, **asked: object) -> Page:
        return self.call(f"GET {Api.ROOT}", urlencode(asked))

    def pages(self, **asked: object) -> Iterator[list[str]]:
        """The ids of each page, until the last."""
        given: dict[str, object] = {}
        while True:
            page = self.page(**asked, **given)
            yield [session["sessionId"] for session in page["sessions"]]
            if page["cursor"] is None:
                return
            given = {"cursor": page["cursor"]}


@pytest.fixture
def ada(local: MotoStack) -> Principal:
    del local
    return Principal()


@pytest.fixture
def bob(local: MotoStack) -> Principal:
    del local
    return Principal()


def test_a_list_is_ones_own_newest_first(ada: Principal, bob: Principal) -> None:
    made: list[str] = []
    for number in range(7):
        made.insert(0, ada.create(number))
        bob.create(number)
    whole = ada.page()
    assert [session["sessionId"] for session in whole["sessions"]] == made
    assert whole["cursor"] is None
    assert [session["totalRecord"] for session in whole["sessions"]] == [*reversed(range(7))]
    for limit in (1, 2, 3, 6, 7, 1_000):
        pages = [*ada.pages(limit=limit)]
        assert [*chain(*pages)] == made
        assert all(len(page) == limit for page in pages[:-1])


def test_sessions_of_one_second_are_all_there(ada: Principal) -> None:
    made = set()
    for _ in range(9):
        made.add(ada.create())
        ada.now -= 1
    pages = [*ada.pages(limit=2)]
    assert sorted(chain(*pages)) == sorted(made)


def test_members_of_a_listed_session(ada: Principal, local: MotoStack) -> None:
    session_id = ada.create(4, batchSize=2, format="ndjson.gz", metadata={"partner": "acme"})
    other = ada.create(1)
    newest, entry = ada.page()["sessions"]
    assert newest["sessionId"] == other
    assert entry.keys() == MEMBERS
    status = ada.call(f"GET {Api.ROOT}/{{sessionId}}", session_id=session_id)
    shared = entry.keys() & status.keys()
    assert {name: entry[name] for name in shared} == {name: status[name] for name in shared}
    assert shared >= MEMBERS - {"fileDeletedAt"}
    decision = {"batches": 2, "records": 4, "bytes": 8, "digest": "f"}
    for change in (
        {"schema": "orders.v3"},
        {"state": "FINISHING", "attempt": 1},
        {"decision": decision, "expiresAt": ada.now + 900_000},
        {"state": "FINISHED", "keptUntil": ada.now + 90_000, "expiresAt": ada.now + 900_000},
    ):
        local.change(session_id, **change)
        status = ada.call(f"GET {Api.ROOT}/{{sessionId}}", session_id=session_id)
        (entry,) = (one for one in ada.page()["sessions"] if one["sessionId"] == session_id)
        assert entry["schema"] == "orders.v3"
        assert {name: entry[name] for name in shared} == {name: status[name] for name in shared}


def test_sessions_in_a_state(ada: Principal) -> None:
    made = [ada.create() for _ in range(6)]
    for session_id in made[::2]:
        ada.call(f"DELETE {Api.ROOT}/{{sessionId}}", session_id=session_id)
    for state, expected in (
        ("ABORTED", made[::2]),
        ("OPEN", made[1::2]),
        ("FINISHED", []),
        ("FINISHING", []),
    ):
        for limit in (1, 4, 50):
            pages = [*ada.pages(limit=limit, state=state)]
            assert [*chain(*pages)] == expected[::-1]


def test_a_session_whose_time_is_over_is_left_out(ada: Principal, local: MotoStack) -> None:
    made = [ada.create() for _ in range(4)]
    local.change(made[0], batchesUntil=ada.now - 61)
    local.change(made[1], batchesUntil=ada.now - 59)
    local.change(made[2], state="FINISHED", keptUntil=ada.now, expiresAt=ada.now + 99)
    assert [*ada.pages()] == [[made[3], made[1]]]
    assert [*chain(*ada.pages(limit=1))] == [made[3], made[1]]


def test_sessions_of_before_are_listed(ada: Principal, local: MotoStack) -> None:
    """Items of the previous release have fewer attributes."""
    session_id = ada.create()
    local.table.update_item(
        Key={"sessionId": session_id},
        UpdateExpression="REMOVE batchesUntil, version, #format",
        ExpressionAttributeNames={"#format": "format"},
    )
    (entry,) = ada.page()["sessions"]
    assert (entry["sessionId"], entry["format"]) == (session_id, "ndjson")


def test_a_key_is_in_no_list(ada: Principal) -> None:
    assert ada.page()["sessions"] == []
    config = Config.from_env({**os.environ, "AUTH_MODE": "IAM"})
    wired = Wiring(config)
    from uploads.session_store import Claim  # noqa: PLC0415

    claim = Claim("0" * 32, "f" * 64, ada.now, ada.now + 100)
    assert wired.sessions.claim(ada.owner, "key", claim, ada.now) == claim
    assert ada.page() == {"sessions": [], "cursor": None}


def asked_of(aws: AwsProxy, act: Callable[[], object]) -> list[tuple[str, dict[str, Any]]]:
    """The calls that ``act`` makes, with their parameters."""
    with aws.recording() as calls:
        act()
    return [(call.operation, json.loads(call.body or b"{}")) for call in calls]


@pytest.mark.slow
def test_a_page_is_one_query_with_its_limit(ada: Principal, local: MotoStack) -> None:
    """Of 5,000 sessions every page reads as many as its limit, wherever it is."""
    first = ada.create()
    item = local.item(first)
    with local.table.batch_writer() as batch:
        for number in range(1, 5_000):
            its = {"sessionId": f"{number:032x}", "createdAt": item["createdAt"] + number // 3}
            batch.put_item(Item={**item, **its})
    page: Page = {}
    try:
        for given in ({}, {"limit": 50}, {"state": "ABORTED"}):
            calls = asked_of(local.aws, lambda given=given: page.update(ada.page(**given)))  # type: ignore[misc]
            ((operation, asked),) = calls
            assert (operation, asked["IndexName"], asked["Limit"]) == ("Query", "ByOwner", 50)
            assert asked["ExpressionAttributeValues"] == {":owner": {"S": ada.owner}}
            assert len(page["sessions"]) == (0 if "state" in given else 50)
        for _ in range(3):
            calls = asked_of(local.aws, lambda: page.update(ada.page(cursor=page["cursor"])))
            ((operation, asked),) = calls
            assert (operation, asked["Limit"]) == ("Query", 50)
            assert asked["ExclusiveStartKey"].keys() == {"owner", "createdAt", "sessionId"}
            assert asked["ExclusiveStartKey"]["owner"] == {"S": ada.owner}
            assert len(page["sessions"]) == 50
    finally:
        with local.table.batch_writer() as batch:
            for number in range(1, 5_000):
                batch.delete_item(Key={"sessionId": f"{number:032x}"})


@pytest.mark.parametrize(
    ("query", "code"),
    [
        *((f"state={state}", "invalid_state") for state in ("", "open", "EXPIRED", "OPEN,OPEN")),
        ("state=OPEN&state=OPEN", "invalid_state"),
        *(
            (f"limit={limit}", "invalid_limit")
            for limit in ("", "0", "1001", "-1", "1.0", "1e2", "+5", "050", "٣", "9" * 5_000, "x")
        ),
        ("limit=1&limit=2", "invalid_limit"),
        *(
            (f"cursor={cursor}", "invalid_cursor")
            for cursor in ("", "x", "A" * 56, "A" * 57, "é" * 56, "%00" * 56, "A" * 9_000)
        ),
        *((f"{name}=1", "unknown_parameter") for name in ("Limit", "offset", "x" * 200, "")),
        ("state", "invalid_state"),
    ],
    ids=lambda value: value[:20],
)
def test_an_invalid_query_gets_an_error_with_the_rule(
    ada: Principal, local: MotoStack, query: str, code: str
) -> None:
    with local.aws.recording() as calls:
        answer = ada.call(f"GET {Api.ROOT}", query)
    assert (answer["status"], answer["code"]) == (400, code)
    assert "parameter" in answer
    assert len(answer["detail"]) < 300
    assert not calls


def test_a_signature_may_be_in_the_query(ada: Principal) -> None:
    session_id = ada.create()
    query = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Signature=0a1b&limit=1"
    assert ada.call(f"GET {Api.ROOT}", query)["sessions"][0]["sessionId"] == session_id


def test_without_authentication_there_is_no_list(any_api: Api) -> None:
    answer = any_api.request("GET", Api.ROOT)
    assert (answer.status, answer.code) == (403, "no_list")


# --- Cursors ---


def cursor_of(principal: Principal) -> str:
    """A cursor after the newest of three sessions."""
    for _ in range(3):
        principal.create()
    found: str = principal.page(limit=1)["cursor"]
    return found


def test_a_cursor_of_somebody_else_is_refused(ada: Principal, bob: Principal) -> None:
    mine, theirs = cursor_of(ada), cursor_of(bob)
    assert ada.page(cursor=mine)["sessions"]
    answer = ada.page(cursor=theirs)
    assert (answer["status"], answer["code"]) == (400, "invalid_cursor")
    # Nor does the position of one cursor fit the code of another.
    for swapped in (mine[:32] + theirs[32:], theirs[:32] + mine[32:]):
        assert ada.page(cursor=swapped)["code"] == "invalid_cursor"
        assert bob.page(cursor=swapped)["code"] == "invalid_cursor"


def test_a_cursor_with_any_bit_changed_is_refused(ada: Principal, local: MotoStack) -> None:
    whole = cursor_of(ada)
    packed = base64.urlsafe_b64decode(whole)
    with local.aws.recording() as calls:
        for bit in range(len(packed) * 8):
            changed = bytearray(packed)
            changed[bit // 8] ^= 1 << bit % 8
            damaged = base64.urlsafe_b64encode(changed).decode()
            assert ada.page(cursor=damaged)["code"] == "invalid_cursor", bit
        for end in range(len(whole)):
            assert ada.page(cursor=whole[:end])["code"] == "invalid_cursor"
        for behind in ("A", "=", "\n", whole):
            assert ada.page(cursor=whole + behind)["code"] == "invalid_cursor"
    assert not calls


def test_a_forged_cursor_shows_no_other_sessions(ada: Principal, bob: Principal) -> None:
    """The cursor's authentication code does not separate callers: every query names the owner."""
    table = os.environ["SESSIONS_TABLE"]
    mine = [bob.create() for _ in range(3)]
    theirs = ada.create()
    for created_at in (0, bob.now, ada.now, 2**63, 2**64 - 1):
        for session_id in (theirs, mine[1], "0" * 32, "f" * 32):
            place = cursor.Place(created_at, session_id)
            forged = cursor.encode(place, bob.owner, table)
            page = bob.page(cursor=forged)
            assert {session["sessionId"] for session in page["sessions"]} <= {*mine}


PLACES = st.builds(
    cursor.Place, st.integers(0, 2**64 - 1), st.binary(min_size=16, max_size=16).map(bytes.hex)
)
OWNERS = st.text(min_size=1)


@given(place=PLACES, owner=OWNERS, other=OWNERS, key=st.text(min_size=1))
def test_a_cursor_is_read_only_by_its_owner(
    place: cursor.Place, owner: str, other: str, key: str
) -> None:
    made = cursor.encode(place, owner, key)
    assert made.isascii()
    assert len(made) == 56
    assert cursor.decode(made, owner, key) == place
    if other != owner:
        with pytest.raises(Exception, match="cursor must be"):
            cursor.decode(made, other, key)


@given(made=st.one_of(st.text(), st.from_regex(r"[A-Za-z0-9_-]{56}", fullmatch=True)))
def test_no_cursor_is_made_up(made: str) -> None:
    with pytest.raises(Exception, match="cursor must be"):
        cursor.decode(made, "owner", "key")


@pytest.mark.usefixtures("local")
def test_the_store_asks_for_nothing_but_the_callers(ada: Principal) -> None:
    """The owner is part of every query, whatever the position."""
    ada.create()
    store = Wiring(Config.from_env(os.environ)).sessions
    found, last = store.page(ada.owner, 5, cursor.Place(2**40, "f" * 32))
    assert [session.owner for session in found] == [ada.owner]
    assert last is None
