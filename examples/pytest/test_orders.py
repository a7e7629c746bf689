"""Their tests, against a real Gapless: ``pip install pytest gapless-local && pytest``.

``gapless_url`` and ``gapless_client`` are fixtures of gapless-local: one service, in memory, for
the whole run. Sessions do not see each other, so that tests can share it.
"""

import pytest
from orders import export, read

import gapless

ORDERS = [{"id": n, "cancelled": n % 5 == 0} for n in range(1_000)]


def test_what_is_stored_is_what_was_exported(
    gapless_url: str, gapless_client: gapless.Client
) -> None:
    result = export(ORDERS, gapless_url, "2026-11-26")
    assert result.received_record == 800
    session = gapless_client.session(result.session_id)
    assert session.status().metadata["day"] == "2026-11-26"
    assert [order["id"] for order in read(session)] == [n for n in range(1_000) if n % 5]


def test_nothing_incomplete_is_read(gapless_client: gapless.Client) -> None:
    session = gapless_client.create(total_record=4, batch_size=2)
    session.send(1, [{"id": 3}, {"id": 4}])
    assert not session.finish().ok
    with pytest.raises(gapless.SessionStateError):
        list(read(session))
    session.send(0, [{"id": 1}, {"id": 2}])
    assert session.finish().ok
    assert [order["id"] for order in read(session)] == [1, 2, 3, 4]
