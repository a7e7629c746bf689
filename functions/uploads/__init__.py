"""The upload protocol: sessions, batches, gap detection and composing.

Nothing in this package imports a handler. ``errors``, ``limits``, ``session``, ``gaps``, ``plan``
and ``records`` are pure: no AWS, no clock, no environment.
"""
