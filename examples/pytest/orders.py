"""Jobs of your own: one sends the orders of a day, the other reads what a partner has sent."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import gapless

Order = dict[str, Any]


def export(orders: Iterable[Order], url: str, day: str) -> gapless.Result:
    """Upload the orders of a day, cancelled ones left out."""
    kept = (order for order in orders if not order["cancelled"])
    return gapless.upload(kept, url, metadata={"name": f"orders-{day}", "day": day})


def read(session: gapless.Session) -> Iterator[Order]:
    """The orders of a finished session. Raises SessionStateError if it is not finished."""
    for line in b"".join(session.stream()).splitlines():
        yield json.loads(line)
