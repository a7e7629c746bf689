"""The upload service. Handlers (``functions/*.py``) call it; it never imports a handler.

A batch, from the request to the object in S3:

1. ``batches.py``: ``receive_json`` for one JSON object, ``receive_ndjson`` for lines
2. ``uploads/receiving.py``: check the session, decode, store, check the session again
3. ``uploads/decode/batch_json.py``, or ``batch_ndjson.py``: body → NDJSON and its digest
4. ``uploads/batch_store.py``: ``put`` creates the object, or compares it with the stored one

A finish, from the request to ``Success``:

1. ``finish.py``
2. ``uploads/merging/finish.py``: all steps in order: seal, list, validate, decide, compose, publish
3. ``uploads/merging/validation.py``: ``Failed``, or the decision
4. ``uploads/merging/composing.py``: read the batches, compose the parts
5. ``uploads/merging/merged_store.py``: publish, by the one write that makes the object visible
6. ``uploads/merging/outcome.py``: commit, and the body of the answer

Both use ``session.py`` (the table of legal moves) and ``session_store.py`` (each move is one
conditional write). A merge that is too long for one call continues in ``merging/tasks.py``.
What follows a session's end starts in ``stream.py`` (clean-up) and ``announce.py`` (events).

::

    http identity errors limits config startup wiring   requests, settings, connecting the parts
    dynamodb signature botocore_clients                 clients of AWS
    retries threads                                     calls to AWS
    background                                          functions without a route
    session session_store gaps batch batch_store        sessions and batches
    reports schemas formats gzip_member                 large gap reports; schemas; file formats
    lifecycle cursor file_name                          all other routes: create, list, links, …
    receiving cleanup events                            batches; what follows a session's end
    decode/                                             request bodies; pure
    merging/                                            finish, and long merges

``pyproject.toml`` says which module may import which; ``make lint`` checks it.
"""
