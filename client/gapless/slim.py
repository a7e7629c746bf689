"""Imports httpx without its command, whose libraries take a third of the import of ``gapless``."""

import sys

# httpx does without it: an import that fails there only leaves out ``httpx.main``.
_MODULE = "httpx._main"
sys.modules.setdefault(_MODULE, None)  # type: ignore[arg-type]

import httpx  # noqa: E402, F401

if sys.modules[_MODULE] is None:
    del sys.modules[_MODULE]
