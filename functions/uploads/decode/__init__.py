"""Decodes the bodies and headers of requests, or raises the error that says what is wrong. Pure."""
