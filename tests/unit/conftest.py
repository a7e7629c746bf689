"""Unit tests do not use the network: opening a socket fails."""

import pytest


@pytest.fixture(autouse=True)
def no_network(socket_disabled: None) -> None:
    """Refuse to open sockets (pytest-socket)."""
