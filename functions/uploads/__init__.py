"""The upload service: sessions, batches, gap detection and merging.

::

    errors limits config http identity startup wiring      the edge
    retries threads background                             calls to AWS; work without a request
    session session_store gaps batch batch_store reports   what there is
    formats gzip_member                                    how batches are stored and merged
    lifecycle          create, status, links, abort
    receiving          a batch: check the session, decode, put, check the session again
    cleanup            deletes what a session that has ended leaves
    decode/            from the bytes of a body to records, or to an error; pure
    merging/           finish: validate, decide, compose, publish, commit; and its long form

The way of a batch: ``batches.receive`` → ``Receiver.receive`` → ``SessionStore.get_cached`` →
``decode.body.read_body``, ``decode.batch_json.read_batch`` or ``decode.batch_ndjson.read_lines`` →
``BatchStore.put`` → ``SessionStore.get``.

The way of a finish: ``finish.finish`` → ``Finisher.run`` → ``SessionStore.seal`` →
``BatchStore.list`` → ``validation.validate`` → ``parts.plan_parts`` → ``SessionStore.decide`` →
``Composition.transfer``, ``Composition.publish`` → ``Outcomes.succeed``, which commits. A merge
that takes too long goes to ``MergeExecutions.start``, and is ``MergeTasks`` from there.

The way of a clean-up: the table's stream → ``stream.clean_up`` → ``cleanup.ended`` →
``Cleanup.run``.

Who may import whom is in ``pyproject.toml``, and checked by ``make lint``.
"""
