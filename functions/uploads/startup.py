"""Keeps the garbage collector out of the start of a function. The first import of every handler.

Objects created at import live forever. Looking for garbage among them, again and again, takes a
twentieth of a start, so that is delayed until the start ends.
"""

import gc

gc.disable()


def ended() -> None:
    """Collect garbage from now on, but never among what exists already."""
    gc.freeze()
    gc.enable()
