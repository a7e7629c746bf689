"""Finishing a session: validating what arrived, and merging it into one object."""
