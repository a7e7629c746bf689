"""Unit tests reach no network: a socket is an error."""

import pytest


@pytest.fixture(autouse=True)
def no_network(socket_disabled: None) -> None:
    """Refuse to open sockets (pytest-socket)."""
