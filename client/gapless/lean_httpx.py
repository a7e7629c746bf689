"""Imports httpx without its own command, which would load rich and pygments.

httpx does without if they are not installed; here they are, for progress bars. Loading them takes a
fifth of the CPU time that the command takes to start.
"""

import sys

if "httpx" not in sys.modules:
    sys.modules["httpx._main"] = None  # type: ignore[assignment] # so importing it fails
    import httpx  # noqa: F401

    del sys.modules["httpx._main"]
