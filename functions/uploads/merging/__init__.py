"""Finishing a session: validate its batches and merge them into one object."""
