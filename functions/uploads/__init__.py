"""The upload service: sessions, batches, gap detection and merging.

::

    errors limits config http identity startup wiring      the edge
    retries threads background                             calls to AWS; work without a request
    session session_store gaps batch batch_store reports   what there is
    schemas            those that are deployed, which a session can name
    cursor file_name   where a page of a list ends; what a download is called
    formats gzip_member                                    how batches are stored and merged
    lifecycle          create, list, status, links, deletion of the file, abort
    receiving          a batch: check the session, decode, put, check the session again
    cleanup            deletes what a session that has ended leaves
    events             tells a bus what has happened to sessions
    decode/            from the bytes of a body to records, or to an error; pure
    merging/           finish: validate, decide, compose, publish, commit; and its long form

The way of a batch: ``batches.receive`` → ``Receiver.receive`` → ``SessionStore.get_cached`` →
``decode.body.read_body``, ``decode.batch_json.read_batch`` or ``decode.batch_ndjson.read_lines`` →
``decode.records`` where the session has a schema → ``BatchStore.put`` → ``SessionStore.get``.

The way of a finish: ``finish.finish`` → ``Finisher.run`` → ``SessionStore.seal`` →
``BatchStore.list`` → ``validation.validate`` → ``parts.plan_parts`` → ``SessionStore.decide`` →
``Composition.transfer``, ``Composition.publish`` → ``Outcomes.succeed``, which commits. A merge
that takes too long goes to ``MergeExecutions.start``, and is ``MergeTasks`` from there.

The way of a clean-up: the table's stream → ``stream.clean_up`` → ``cleanup.ended`` →
``Cleanup.run``. That of an event: the table's stream → ``announce.handler`` → ``events.event_of``
→ ``EventBus.put``.

Who may import whom is in ``pyproject.toml``, and checked by ``make lint``.
"""
