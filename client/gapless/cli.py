"""The ``gapless`` command: options, help texts, messages and exit codes.

The work is done by ``uploads``, ``sessions`` and the other modules; none of them imports this one.

Exit codes:

====  =============================================================================
0     done, and what is stored is what was sent
1     the service refused, or another failure; the message says what
2     an option or a variable is invalid, or no upload of the file is known
3     the input cannot be sent: a malformed record, or a file that has changed
4     the session is incomplete: send what is missing, then finish again
5     the service could not be reached in time: run ``gapless resume`` later
6     the credentials were refused: run ``gapless resume`` with new ones
7     a checksum does not match: what is stored, or downloaded, is not what was sent
8     done, without the invalid records that --schema and --skip-invalid left out
130   interrupted: run ``gapless resume``; 143 and 129 after SIGTERM and SIGHUP
141   ``download -o -``: the reader closed the pipe
====  =============================================================================
"""

import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import anyio
import anyio.to_thread
import click
import httpx
from click.core import ParameterSource

from gapless import atomic, state, uploads
from gapless.auth import SigV4Auth, TokenAuth, TokenError
from gapless.display import Display, display, tolerate_broken_streams
from gapless.errors import (
    ApiError,
    AuthError,
    ChecksumError,
    ExpiredError,
    FileChangedError,
    GaplessError,
    IncompleteError,
    InputError,
    InvalidRecordError,
    InvalidRecordsError,
    NotFoundError,
    SessionStateError,
    SettingError,
    StateError,
    UnavailableError,
)
from gapless.formats import Format, MergedFormat, ReadOptions, read_options
from gapless.inputs import Source
from gapless.merged import verify_content
from gapless.metadata import parse
from gapless.models import Limits, Result, as_json
from gapless.schemas import Schema, read_file, read_schema
from gapless.sessions import AsyncClient, service_url
from gapless.text import as_argument, command, count, printable, with_suffix

EXIT_CODES: Final[list[tuple[type[GaplessError], int]]] = [
    (InputError, 3),
    (IncompleteError, 4),
    (UnavailableError, 5),
    (AuthError, 6),
    (TokenError, 6),
    (ChecksumError, 7),
    (StateError, 2),
    (SettingError, 2),
]
_USAGE: Final = 2
_SET_ASIDE: Final = 8
_SIGNALED: Final = 128
_SIGNAL_SECONDS: Final = 0.5
"""Time that the main thread has to handle a signal."""
_CLOSED_PIPE: Final = 141
"""128 + SIGPIPE, as a shell reports it."""
_SESSION_ID: Final = re.compile(r"[0-9a-f]{32}")

_Command = TypeVar("_Command", bound=Callable[..., Any])


def _options(*, sends: bool = False, quiet: bool = True) -> Callable[[_Command], _Command]:
    """Decorator: the common options; with ``sends`` also those of commands that send batches."""
    common = [
        click.option("--url", envvar="GAPLESS_URL", help="The URL of the service. [GAPLESS_URL]"),
        click.option(
            "--token",
            envvar="GAPLESS_TOKEN",
            help="A bearer token. Prefer GAPLESS_TOKEN, which other users cannot see.",
        ),
        click.option(
            "--token-command",
            envvar="GAPLESS_TOKEN_COMMAND",
            help="A command that prints a token; run again when the token expires."
            " [GAPLESS_TOKEN_COMMAND]",
        ),
        click.option(
            "--aws", is_flag=True, envvar="GAPLESS_AWS", help="Sign with AWS credentials (SigV4)."
        ),
        click.option("--region", help="The AWS region, if the URL does not contain it."),
        click.option(
            "--patience",
            type=click.FloatRange(min=0),
            default=300.0,
            show_default=True,
            help="Seconds to keep retrying while no request succeeds.",
        ),
        click.option("--json", "as_json", is_flag=True, help="Print JSON, one object per line."),
    ]
    if quiet:
        common.append(click.option("-q", "--quiet", is_flag=True, help="Print errors only."))
    sending = [
        click.option(
            "--parallel",
            type=click.IntRange(1, 64),
            default=8,
            show_default=True,
            help="Maximum number of concurrent requests; fewer while the service is busy.",
        ),
        click.option("--no-gzip", is_flag=True, help="Send batches uncompressed."),
    ]

    def add(command: _Command) -> _Command:
        for option in reversed(common + (sending if sends else [])):
            command = option(command)
        return command

    return add


_INPUT_OPTIONS: Final = [
    click.option(
        "--format",
        type=click.Choice([choice.value for choice in Format]),
        help="The format of the file. Default: from its name and content.",
    ),
    click.option(
        "--delimiter",
        metavar="CHARACTER",
        help="For CSV and TSV: one character, or comma, semicolon, tab or pipe.",
    ),
    click.option(
        "--encoding",
        help="The encoding of the file, such as windows-1252 or utf-16le. Default: UTF-8, or UTF-16"
        " with a byte order mark.",
    ),
    click.option(
        "--header/--no-header",
        default=None,
        help="For CSV and TSV: whether the first row names columns. If not, rows become arrays.",
    ),
    click.option(
        "--typed",
        is_flag=True,
        help="For CSV and TSV: send numbers, true, false and empty cells as JSON numbers, booleans"
        " and null. Otherwise every cell is a string.",
    ),
    click.option(
        "--schema",
        metavar="FILE|NAME",
        help="A JSON Schema that the service knows. FILE (orders.v3.json): records are checked"
        " before they are sent. NAME (orders.v3): only the service checks them.",
    ),
    click.option(
        "--skip-invalid",
        is_flag=True,
        help="Leave out malformed records, and write them to FILE.invalid. With the file of a"
        " schema, also those that do not satisfy it, with reasons, to FILE.invalid.ndjson.",
    ),
]


def _reading_options(command: _Command) -> _Command:
    """Decorator: the options that say how a file is read."""
    for option in reversed(_INPUT_OPTIONS[:-2]):
        command = option(command)
    return command


def _input_options(command: _Command) -> _Command:
    """Decorator: the reading options, and those for invalid records."""
    for option in reversed(_INPUT_OPTIONS[-2:]):
        command = option(command)
    return _reading_options(command)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="gapless")
def cli() -> None:
    """Upload large data sets to a Gapless service: one complete object, or exactly what is missing.

    \b
    Examples:
      export GAPLESS_URL=http://localhost:3000
      gapless upload orders.ndjson          send, finish, verify
      gapless resume orders.ndjson          after a crash: send what is missing
      gapless list                          unfinished uploads of this machine
      gapless list --remote                 your sessions on the service
      gapless download orders.ndjson        write orders.merged.ndjson
      producer | gapless upload -           from a pipe
      gapless status 1f6d0e9c52b84a7fb3d27c0a94e8f615
      gapless conformance https://…         check that a service is correct
      gapless upload --help                 options and examples of a command

    \b
    Shell completion (zsh and fish likewise):
      eval "$(_GAPLESS_COMPLETE=bash_source gapless)"

    \b
    Exit codes:
      0 done   1 refused   2 usage   3 bad input   4 gaps   5 unreachable
      6 credentials   7 checksum   8 records left out   130, 143, 129 interrupted
      141 closed pipe
    """


@cli.command(short_help="Upload files, finish, and verify.")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, allow_dash=True))
@_input_options
@click.option(
    "--batch-size", type=click.IntRange(1), help="Records per batch. Default: up to 4 MB of them."
)
@click.option(
    "--merged-format",
    type=click.Choice([choice.value for choice in MergedFormat]),
    default=MergedFormat.NDJSON.value,
    show_default=True,
    help="The format of the merged object. ndjson.gz stores batches and object compressed.",
)
@click.option(
    "--metadata",
    multiple=True,
    metavar="NAME=VALUE",
    help="Stored with the session, and shown by status and list; may be repeated. Default:"
    " name=FILE.",
)
@click.option(
    "--idempotency-key",
    metavar="KEY",
    help="For a pipe: repeat the command with the same key and the same input to complete an"
    " interrupted upload. A secret of at least 22 characters.",
)
@click.option(
    "--new", "start_over", is_flag=True, help="Start over even if an upload is unfinished."
)
@_options(sends=True)
def upload(files: tuple[Path, ...], **options: Any) -> None:  # noqa: ANN401 - click's
    """Upload each of FILES into a session, finish it, and verify the checksum.

    A file is NDJSON, a JSON array, CSV or TSV, plain or gzip. It is checked completely before
    anything is sent; the message for a malformed record shows its line and column. If one file
    fails, the others are still uploaded.

    Standard input (-) and other pipes are sent while they are read. If that is interrupted, the
    message shows how to resume: pass the same input to the command that it contains.

    \b
    Examples:
      gapless upload orders.ndjson --url http://localhost:3000
      gapless upload january.csv.gz february.csv.gz --typed
      gapless upload orders.ndjson --merged-format ndjson.gz
      gapless upload orders.ndjson --metadata partner=acme
      gapless upload orders.ndjson --schema orders.v3.json
      zcat orders.gz | gapless upload - --format ndjson
      gapless upload orders.ndjson --aws      for a service with AuthMode IAM
      gapless upload orders.ndjson --token-command "get-token --scope uploads"
    """
    job = _Job(options, sends=True)

    async def work(client: AsyncClient, shown: Display) -> int:
        metadata = parse(options["metadata"])
        job.uploaded_with = uploads.option_words(
            _read_options(options),
            options["skip_invalid"],
            options["batch_size"],
            options["merged_format"],
            metadata,
            _schema(options),
        )
        aside = False
        codes: dict[Path, int] = {}
        for file in files:
            job.start(file)
            try:
                with _source(file, options, job) as source:
                    result = await uploads.upload(
                        client,
                        source,
                        batch_size=options["batch_size"],
                        merged_format=MergedFormat(options["merged_format"]),
                        metadata=metadata,
                        idempotency_key=options["idempotency_key"],
                        start_over=options["start_over"],
                    )
            except (GaplessError, OSError) as error:
                if len(files) == 1:
                    raise
                codes[file] = _report_error(shown, error, job)
            else:
                _show_result(shown, result, file)
                aside |= _is_set_aside(result, options)
        if len(files) > 1:
            _show_summary(shown, files, codes)
        return _exit_code(codes) or (_SET_ASIDE if aside else 0)

    _run(work, options, options["url"], job)


@cli.command(short_help="Show how a file is read.")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@_input_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object per line.")
def inspect(file: Path, **options: Any) -> None:  # noqa: ANN401 - click's
    """Show how FILE is read, its first records and their number. Sends nothing.

    \b
    Examples:
      gapless inspect orders.csv
      gapless inspect export.txt --format csv --delimiter semicolon
    """
    shown = display(as_json=options["as_json"])
    job = _Job(options)
    _handle_signals(shown, job)
    with (
        _reporting_errors(shown, job),
        shown,
        _source(file, options, job) as source,
    ):
        found = uploads.scan(source, Limits(), keep_invalid=False)
        facts: dict[str, Any] = {
            "file": source.name,
            "reading": str(found.reading),
            "format": found.reading.format.value,
            "delimiter": found.reading.delimiter,
            "encoding": found.reading.encoding,
            "gzip": found.reading.gzip,
            "records": found.plan.records,
            "bytes": found.plan.bytes,
            "skipped": found.skipped,
            "blank": found.blank,
            "literal": found.literal,
            "first": [record.decode(errors="replace") for record in found.first],
        }
        shown.result(
            "\n".join(
                [
                    f"{source.name}: {found.reading}",
                    *facts["first"],
                    *(["…"] if found.plan.records > len(found.first) else []),
                    _counts(found),
                ]
            ),
            facts,
        )


@cli.command(short_help="Check records against a JSON Schema.")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "--schema",
    "rules",
    metavar="FILE",
    required=True,
    type=click.Path(path_type=Path),
    help="The file of a JSON Schema, with any name.",
)
@_reading_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object per line.")
def validate(file: Path, rules: Path, **options: Any) -> None:  # noqa: ANN401 - click's
    """Check the records of FILE against a schema, as upload and the service do. Sends nothing.

    For each of the first 100 invalid records, prints its line, a JSON Pointer to the invalid value
    and the reason; then the number of all. Exits with 1 if there are any.

    \b
    Examples:
      gapless validate orders.csv.gz --schema orders.v3.json --typed
      producer | gapless validate - --schema orders.v3.json
    """
    shown = display(as_json=options["as_json"])
    job = _Job(options)
    _handle_signals(shown, job)
    with _reporting_errors(shown, job), shown:
        options |= {"schema": read_file(rules), "skip_invalid": False}
        with _source(file, options, job) as source:
            try:
                found = uploads.scan(source, Limits(), keep_invalid=False)
            except InvalidRecordsError as error:
                _report_error(shown, error, job, 1)
                sys.exit(1)
            facts = {"file": source.name, "records": found.plan.records, "invalid": 0}
            records = count(found.plan.records, "record")
            shown.result(f"{source.name}: {records}, each satisfies {printable(rules)}", facts)


@cli.command(short_help="Resume an upload: send only what is missing.")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--session", help="The session id, if the upload was started elsewhere.")
@_input_options
@click.option(
    "--batch-size", type=click.IntRange(1), help="For a pipe: the --batch-size of its upload."
)
@_options(sends=True)
def resume(file: Path, session: str | None, **options: Any) -> None:  # noqa: ANN401 - click's
    """Resume the upload of FILE: send only what the service has not stored, and finish.

    A pipe is read from its start; batches that are stored already are compared, not replaced.

    \b
    Examples:
      gapless resume orders.ndjson
      gapless resume orders.ndjson --session 1f6d0e9c52b84a7fb3d27c0a94e8f615 \\
        --url http://localhost:3000                           on another machine
      producer | gapless resume - --session 1f6d0e9c52b84a7fb3d27c0a94e8f615
    """
    saved_state = state.load(file, session_id=session)
    session_id = session or (saved_state.session_id if saved_state else None)
    url = options["url"] or (saved_state.url if saved_state else None)
    job = _Job(options, sends=True)
    job.start(file, session_id or "", saved_state)

    async def work(client: AsyncClient, shown: Display) -> int:
        read = _read_options(options)
        if saved_state is None:
            job.uploaded_with = uploads.option_words(
                read, options["skip_invalid"], schema=_schema(options)
            )
        if session_id is None:
            raise StateError(
                f"No unfinished upload of {printable(file)} is known on this machine. See gapless"
                " list, or pass the session id with --session, and --url."
            )
        job.url = client.url
        if saved_state:
            source = uploads.source_from(saved_state, file)
            source = replace(source, connection=job.connection, sending=job.sending)
            result = await uploads.resume(client, source, session_id, saved_state)
        else:
            with _source(file, options, job) as source:
                result = await uploads.resume(
                    client, source, session_id, batch_size=options["batch_size"]
                )
        _show_result(shown, result, file)
        set_aside = saved_state.rules if saved_state else _is_set_aside(result, options)
        return _SET_ASIDE if set_aside else 0

    _run(work, options, url, job)


@cli.command("list", short_help="List unfinished uploads, or your sessions on the service.")
@click.option("--remote", is_flag=True, help="List your sessions on the service instead.")
@click.option(
    "--state",
    "wanted",
    type=click.Choice(["OPEN", "FINISHING", "FINISHED", "ABORTED"], case_sensitive=False),
    help="With --remote: only sessions in this state.",
)
@_options(quiet=False)
def list_(remote: bool, wanted: str | None, **options: Any) -> None:  # noqa: ANN401 - click's
    """List the unfinished uploads of this machine. Sends nothing.

    With --remote, list your sessions on the service, newest first, from all machines. A service
    without authentication (AuthMode NONE) has no such list.

    \b
    Examples:
      gapless list
      gapless list --remote --state OPEN
      gapless list --remote --json
    """
    if remote:
        _run(partial(_list_remote, wanted), options, options["url"])
        return
    if wanted:
        raise click.UsageError("--state is for --remote.")
    shown = display(as_json=options["as_json"])
    unfinished = state.unfinished()
    for upload in unfinished:
        resume = command("resume", as_argument(upload.path), "--session", upload.session_id)
        when = datetime.fromtimestamp(upload.started_at, timezone.utc).astimezone()
        facts = {
            "file": str(upload.path),
            "sessionId": upload.session_id,
            "url": upload.url,
            "totalRecord": upload.plan.records,
            "mergedFormat": upload.merged_format,
            "metadata": upload.metadata,
            "begun": when.isoformat(timespec="seconds"),
            "resume": resume,
        }
        records = count(upload.plan.records, "record")
        text = (
            f"{printable(upload.path)}: {records}, started {when:%Y-%m-%d %H:%M}"
            f"\n  session {upload.session_id} at {upload.url}\n  {resume}"
        )
        shown.result(text, facts)
    if not unfinished:
        shown.say("No upload of this machine is unfinished.")


async def _list_remote(wanted: str | None, client: AsyncClient, shown: Display) -> None:
    line = "{:<32}  {:<9}  {:<16}  {:>11}  {}".format
    listed = 0
    async with aclosing(client.list_sessions(wanted)) as sessions:
        async for session in sessions:
            if not listed:
                shown.heading(line("SESSION", "STATE", "CREATED", "RECORDS", "NAME"))
            listed += 1
            total = "?" if session.total_record is None else f"{session.total_record:,}"
            deleted = ["(file deleted)"] if session.file_deleted_at else []
            named = "  ".join([*_named(session.metadata), *deleted])
            when = f"{session.created_at.astimezone():%Y-%m-%d %H:%M}"
            text = line(session.session_id, session.state, when, total, named).rstrip()
            shown.result(text, as_json(session))
    if not listed:
        shown.say(f"You have no session{f' that is {wanted}' if wanted else ''} at {client.url}.")


def _named(metadata: Mapping[str, str]) -> list[str]:
    """Metadata in one line, the name first."""
    others = [f"{name}={value}" for name, value in sorted(metadata.items()) if name != "name"]
    named = [metadata["name"], *others] if "name" in metadata else others
    return [printable(word) for word in named]


@cli.command(short_help="Show what is stored, and what is missing.")
@click.argument("target")
@_options(quiet=False)
def status(target: str, **options: Any) -> None:  # noqa: ANN401 - click's
    """Show which batches of TARGET, a file or a session id, are stored or missing.

    \b
    Examples:
      gapless status orders.ndjson
      gapless status 1f6d0e9c52b84a7fb3d27c0a94e8f615 --url http://localhost:3000
    """

    async def work(client: AsyncClient, shown: Display, session_id: str, _: object) -> None:
        found = await client.session(session_id).status()
        facts = as_json(found)
        number = sum(map(len, found.missing))
        more = "more than " if found.missing_truncated else ""
        total = found.total_record
        records = "no total yet" if total is None else count(total, "record")
        shown.result(
            f"session {found.session_id}: {found.state}, {records}"
            f" into {found.format}{f', schema {found.schema}' if found.schema else ''},"
            f" {count(found.batches, 'batch', 'batches')} stored,"
            f" {more}{number:,} missing, expires {facts['expiresAt']}"
            + (f", file deleted {facts['fileDeletedAt']}" if found.file_deleted_at else "")
            + (f"\n  {'  '.join(_named(found.metadata))}" if found.metadata else ""),
            facts,
        )
        if found.missing:
            shown.gaps(facts["missing"], found.batch_size, total or 0)

    _run_on_session(target, work, options)


@cli.command(short_help="Check for gaps, and merge.")
@click.argument("target")
@_options()
def finish(target: str, **options: Any) -> None:  # noqa: ANN401 - click's
    """Check TARGET, a file or a session id, for gaps, and merge it. Sends no batches.

    May be repeated. If batches are missing, prints them and exits with 4.

    \b
    Example:
      gapless finish orders.ndjson
    """

    async def work(
        client: AsyncClient, shown: Display, session_id: str, saved_state: state.State | None
    ) -> None:
        session = client.session(session_id)
        result = await session.finish()
        if not result.ok:
            facts = as_json(result)
            batch_size = (await session.status()).batch_size
            shown("finish", facts)
            shown.gaps(facts["missing"], batch_size, result.total_record)
            raise result.incomplete()
        if saved_state:
            state.mark_finished(saved_state)
            verify_content(result, saved_state.plan.bytes, saved_state.plan.crc32)
        _show_result(shown, result, target, checked=saved_state is not None)

    _run_on_session(target, work, options)


@cli.command(short_help="Download the merged object, and verify it.")
@click.argument("target")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    help="Output file; - is standard output. Default: NAME.merged.ndjson in this folder.",
)
@click.option("--force", is_flag=True, help="Overwrite an existing file.")
@click.option(
    "--inflate/--no-inflate",
    default=None,
    help="Decompress an ndjson.gz object, or write it as stored. Default: decompress, unless the"
    " name of the output file ends with .gz or .gzip.",
)
@click.option(
    "--manifest",
    is_flag=True,
    help="Download the manifest: offset and SHA-256 of each batch.",
)
@_options()
def download(
    target: str,
    output: Path | None,
    force: bool,
    inflate: bool | None,
    manifest: bool,
    **options: Any,  # noqa: ANN401 - click's
) -> None:
    """Download the merged object of TARGET, a file or a session id, and verify it.

    The output file appears only when it is complete. Without --output an existing file is
    overwritten only with --force. Devices and pipes are written directly. If the output is a
    symbolic link, its target is replaced.

    \b
    Examples:
      gapless download orders.ndjson
      gapless download 1f6d0e9c52b84a7fb3d27c0a94e8f615 -o merged.ndjson
      gapless download orders.ndjson -o - | head
      gapless download orders.ndjson -o orders.ndjson.gz     as it is stored
      gapless download orders.ndjson --manifest
    """
    suffix = ".merged.ndjson.gz" if inflate is False else ".merged.ndjson"
    suffix = ".manifest.json" if manifest else suffix
    path = output or with_suffix(Path(_stem(Path(target).name) or target), suffix)
    exists = not (output or force) and os.path.lexists(path)

    async def work(client: AsyncClient, shown: Display, session_id: str, _: object) -> None:
        if exists:
            raise SettingError(
                f"{printable(path)} exists. Use --force to overwrite it, or --output for another"
                " file."
            )
        session = client.session(session_id)
        get = session.manifest if manifest else partial(session.download, inflate=inflate)
        if str(path) == "-":
            try:
                with atomic.standard_output() as stream:
                    size = await get(stream)
            except BrokenPipeError:
                # The reader stopped early, as head does: no error, but not a complete file either.
                sys.exit(_CLOSED_PIPE)
            if not options["quiet"]:
                shown.say(count(size, "byte") + ("" if manifest else ", the checksum matches"))
            return
        size = await get(path)
        shown.result(
            f"{printable(path)}: {count(size, 'byte')}"
            + ("" if manifest else ", the checksum matches"),
            {"sessionId": session_id, "file": str(path), "bytes": size},
        )

    _run_on_session(target, work, options, finished=True)


@cli.command(short_help="Abort an upload; its batches are deleted.")
@click.argument("target")
@_options()
def abort(target: str, **options: Any) -> None:  # noqa: ANN401 - click's
    """Abort the upload of TARGET, a file or a session id. The service deletes its batches.

    \b
    Example:
      gapless abort orders.ndjson
    """

    async def work(
        client: AsyncClient, shown: Display, session_id: str, saved_state: state.State | None
    ) -> None:
        outcome = "aborted"
        try:
            await client.session(session_id).abort()
        except (NotFoundError, ExpiredError) as error:
            if not (saved_state and error.code):
                raise
            outcome = "no longer exists: it expired or was aborted; its saved state is deleted"
        state.delete(saved_state)
        shown.result(f"session {session_id}: {outcome}", {"sessionId": session_id, "aborted": True})

    _run_on_session(target, work, options)


@cli.command(short_help="Delete the merged object permanently.")
@click.argument("target")
@click.option("--yes", is_flag=True, help="Do not ask for confirmation.")
@_options()
def delete(target: str, yes: bool, **options: Any) -> None:  # noqa: ANN401 - click's
    """Permanently delete the merged object and the manifest of TARGET, a file or a session id.

    Asks for confirmation; without a terminal it requires --yes. Your local file is kept. May be
    repeated. To end an unfinished upload, use gapless abort.

    \b
    Examples:
      gapless delete orders.ndjson
      gapless delete 1f6d0e9c52b84a7fb3d27c0a94e8f615 --yes
    """
    if not yes:
        question = f"Delete the merged object of {printable(target)} for good?"
        if sys.stdin is None or not sys.stdin.isatty():
            raise click.UsageError(f"{question} Pass --yes: there is no terminal to ask.")
        click.confirm(question, abort=True, err=True)

    async def work(
        client: AsyncClient, shown: Display, session_id: str, saved_state: state.State | None
    ) -> None:
        await client.session(session_id).delete_file()
        state.delete(saved_state)
        shown.result(
            f"session {session_id}: the merged object is deleted",
            {"sessionId": session_id, "fileDeleted": True},
        )

    _run_on_session(target, work, options, finished=True)


@cli.command(short_help="Check that a service, or a client, keeps its guarantees.")
@click.argument("service", required=False)
@click.option(
    "--client",
    metavar="COMMAND",
    help="Check a client instead, against SERVICE: COMMAND starts its adapter.",
)
@click.option(
    "--only", multiple=True, help="Run only checks whose name contains this; may be repeated."
)
@_options()
def conformance(
    service: str | None,
    client: str | None,
    only: tuple[str, ...],
    **options: Any,  # noqa: ANN401 - click's
) -> None:
    """Check that SERVICE, a URL, keeps the protocol and its guarantees.

    SERVICE may be any deployment, or another implementation. The checks open their own small
    sessions, which expire. Exits with 1 if a check fails.

    With --client, check a program that uploads to SERVICE instead: through lost responses,
    throttling and gaps. It needs an adapter, which docs/conformance.md describes.

    \b
    Examples:
      gapless conformance http://localhost:3000
      gapless conformance --client "node adapter.mjs" http://localhost:3000
      gapless conformance https://….amazonaws.com --aws --json
      gapless conformance --only finish --only gap
    """
    # Other commands start faster without the suites.
    from gapless import client_conformance, conformance  # noqa: PLC0415

    def check(url: str, shown: Display) -> None:
        tested = conformance.Service(url, _auth(options))

        def begin(name: str) -> None:
            shown("checking", {"check": name})

        if client is None:
            outcomes = conformance.run(tested, only, begin)
        else:
            outcomes = client_conformance.run(tested, client, only, begin)
        checks = failed = 0
        for outcome in outcomes:
            checks += 1
            failed += not (outcome.passed or outcome.optional)
            shown("check", outcome.facts())
        tested.close()
        summary = f"{count(checks, 'check')}, {count(tested.requests, 'request')}, {failed} failed"
        subject = client or tested.url
        if failed or not checks:
            raise GaplessError(f"{subject}: {summary}")
        facts = {"checks": checks, "requests": tested.requests, "failed": failed}
        shown.result(f"{subject}: {summary}", facts)

    async def work(service: AsyncClient, shown: Display) -> None:
        await anyio.to_thread.run_sync(check, service.url, shown)

    job = _Job(options, before_exit=client_conformance.kill_all)
    _run(work, options, service or options["url"], job)


def _read_options(options: dict[str, Any]) -> ReadOptions:
    names = ("format", "delimiter", "encoding", "header", "typed")
    return read_options(**{name: options[name] for name in names})


def _schema(options: dict[str, Any]) -> Schema | None:
    """The schema of ``--schema``, cached in ``options``."""
    if isinstance(options["schema"], str):
        options["schema"] = read_schema(options["schema"])
    found: Schema | None = options["schema"]
    return found


def _is_set_aside(result: Result, options: dict[str, Any]) -> bool:
    schema = _schema(options)
    return bool(result.skipped and schema and schema.text)


@contextmanager
def _source(file: Path, options: dict[str, Any], job: "_Job") -> Iterator[Source]:
    source = Source(
        file,
        _read_options(options),
        options["skip_invalid"],
        _schema(options),
        connection=job.connection,
        sending=job.sending,
    )
    if str(file) != "-":
        yield source
        return
    if sys.stdin is None:
        raise InputError("Standard input is closed.")
    # Not sys.stdin: a process cannot exit while a thread reads it.
    with open(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as stream:
        yield replace(source, stream=stream, label="standard input")


def _stem(name: str) -> str:
    """A file name without the suffix of its format."""
    stem = re.sub(r"(?i)\.(?:gz|gzip)$", "", name)
    return re.sub(r"(?i)\.(?:ndjson|jsonl|json|csv|tsv|tab|txt)$", "", stem)


def _show_result(shown: Display, result: Result, name: object, *, checked: bool = True) -> None:
    facts = as_json(result) | {"file": str(name), "verified": checked}
    content = result.content or result
    stored = f", {count(result.bytes, 'byte')} compressed" if result.content else ""
    proof = ", and what is stored is what was sent" if checked else ""
    shown.result(
        f"{printable(str(name))}: {count(result.received_record or 0, 'record')},"
        f" {count(content.bytes, 'byte')} in {count(result.batches, 'batch', 'batches')}"
        f" are {result.key}{stored}{proof}"
        + (f"; read as {result.reading}" if result.reading else ""),
        facts,
    )


def _counts(found: uploads.Scan) -> str:
    always = [
        (found.plan.records, "record", "records"),
        (found.plan.bytes, "byte as NDJSON", "bytes as NDJSON"),
    ]
    maybe = [
        (found.skipped, "malformed record left out", "malformed records left out"),
        (found.blank, "blank line left out", "blank lines left out"),
        (found.literal, "line with quotes or backslashes", "lines with quotes or backslashes"),
    ]
    return ", ".join(
        count(number, one, more)
        for number, one, more in always + [counted for counted in maybe if counted[0]]
    )


def _show_summary(shown: Display, files: tuple[Path, ...], codes: dict[Path, int]) -> None:
    done = len(files) - len(codes)
    text = f"{done} of {len(files)} files uploaded"
    if codes:
        text += f"; failed: {', '.join(map(printable, codes))}"
    failed = [str(file) for file in codes]
    shown("summary", {"text": text, "files": len(files), "uploaded": done, "failed": failed})


def _exit_code(codes: dict[Path, int]) -> int:
    """The exit code for several files: that of the failed ones, or 1 if they differ."""
    found = set(codes.values())
    return found.pop() if len(found) == 1 else int(bool(found))


def _name(file: Path) -> str:
    return "standard input" if str(file) == "-" else printable(file)


@dataclass
class _Job:
    """What a command works on, and the advice after an error or a signal."""

    options: dict[str, Any]
    sends: bool = False
    file: Path | None = None
    session_id: str = ""
    url: str = ""
    remembered: bool = False
    uploaded_with: Sequence[str] = ()
    """The command-line words of the options that say what is uploaded."""
    stored: int | None = None
    """How many records of a pipe are stored, from the first on without a gap; None for a file."""
    before_exit: Callable[[], object] = lambda: None
    """Called when a signal ends the process."""

    def __post_init__(self) -> None:
        self.connection = _given("url", "aws", "region", "patience")
        """The words of the options that say how to reach the service."""
        self.sending = _given("parallel", "no_gzip")
        """The words of the options that say how to send."""

    def start(
        self, file: Path, session_id: str = "", saved_state: "state.State | None" = None
    ) -> None:
        self.file, self.session_id = file, session_id
        self.remembered = saved_state is not None
        if saved_state is not None:
            self.uploaded_with = saved_state.options
        self.stored = None

    def note(self, event: str, facts: dict[str, Any]) -> None:
        """Keep what the events say about the session."""
        if event == "session":
            self.session_id, self.url = facts["sessionId"], facts["url"]
            self.remembered = facts["remembered"]
            self.stored = 0 if facts["once"] else None
        elif event == "batch" and "safeRecords" in facts:
            self.stored = facts["safeRecords"]

    def advice(self, error: BaseException | None) -> str:
        """What to do next; "" if the error says it, or nothing can be done."""
        refused = isinstance(error, InvalidRecordsError) and error.by_service
        explained = InputError if self.stored is None or refused else FileChangedError
        if self.file is None or isinstance(error, (explained, StateError, SettingError)):
            return ""
        options = [*self.uploaded_with, *self.sending, *self.connection]
        again = [*options, as_argument(self.file)]
        if _is_over(error):
            new = ["--new"] if self.stored is None else []
            return f"Start over with: {command('upload', *new, *again)}"
        if isinstance(error, ChecksumError):
            return f"Upload it again with: {command('upload', *again)}"
        if not self.sends and not isinstance(error, IncompleteError):
            return ""
        return self._how_to_resume(self.file)

    def _how_to_resume(self, file: Path) -> str:
        if not self.session_id:
            return f"Nothing of {_name(file)} was sent."
        words = ["resume", as_argument(file)]
        if not self.remembered:
            read = uploads.option_words(
                _read_options(self.options),
                self.options["skip_invalid"],
                None if self.stored is None else self.options["batch_size"],
                schema=_schema(self.options),
            )
            url = [] if "--url" in self.connection else ["--url", self.url]
            words += ["--session", self.session_id, *read, *url]
        resume = command(*words, *self.connection)
        if self.stored is None:
            again = "Pass the same input again" if str(file) == "-" else "Resume"
            return f"{again} with: {resume}"
        safe = (
            f"The first {count(self.stored, 'record')} are"
            if self.stored
            else "Nothing is known to be"
        )
        return (
            f"{safe} stored, in session {self.session_id}. Pass the same input again, from its"
            f" start, with: {resume}"
        )


def _is_over(error: BaseException | None) -> bool:
    """Whether the session can never be completed with this input."""
    if isinstance(error, IncompleteError):
        return error.reason == "unexpected_batches"
    ended = {"session_not_found", "session_aborted", "totals_conflict", "schema_changed"}
    return isinstance(error, ExpiredError) or (
        isinstance(error, (NotFoundError, SessionStateError)) and error.code in ended
    )


def _given(*names: str) -> list[str]:
    """The words of those of the named options that are on the command line."""
    context = click.get_current_context()
    words = []
    for option in context.command.params:
        name = option.name or ""
        if name in names and context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            value = context.params[name]
            words.append(option.opts[0])
            if value is not True:
                words.append(f"{value:g}" if isinstance(value, float) else str(value))
    return words


_Work = Callable[[AsyncClient, Display], Awaitable["int | None"]]
_WorkOn = Callable[[AsyncClient, Display, str, "state.State | None"], Awaitable[None]]


def _run_on_session(
    target: str, work: _WorkOn, options: dict[str, Any], *, finished: bool = False
) -> None:
    """Run ``work`` on the session of ``target``; with ``finished``, prefer a finished one."""
    saved_state = state.load(Path(target), finished=finished) or state.find_by_session(target)
    session_id = saved_state.session_id if saved_state else target
    job = _Job(options)
    if saved_state:
        path = Path(target) if target != session_id else saved_state.path
        job.start(path, session_id, saved_state)

    async def work_on_session(client: AsyncClient, shown: Display) -> None:
        if not _SESSION_ID.fullmatch(session_id):
            raise StateError(
                f"No upload of {printable(target)} is known on this machine, and it is not a"
                " session id. See gapless list."
            )
        await work(client, shown, session_id, saved_state)

    _run(
        work_on_session, options, options["url"] or (saved_state.url if saved_state else None), job
    )


def _run(work: _Work, options: dict[str, Any], url: str | None, job: _Job | None = None) -> None:
    """Run ``work`` with a client. On failure, exit with the code of the error."""
    job = job or _Job(options)
    auths: list[Any] = []

    def secrets() -> list[str]:
        token = (options["token"] or "").strip()
        return [token, *(secret for auth in auths for secret in getattr(auth, "secrets", ()))]

    shown = display(as_json=options["as_json"], quiet=options.get("quiet", False), secrets=secrets)

    def report(event: str, facts: dict[str, Any]) -> None:
        job.note(event, facts)
        shown(event, facts)

    async def run() -> int | None:
        if not url:
            raise SettingError("The URL of the service is missing: pass --url, or set GAPLESS_URL.")
        auth = _auth(options)
        auths.append(auth)
        async with AsyncClient(
            service_url(url),
            auth=auth,
            gzip=not options.get("no_gzip"),
            parallel=options.get("parallel", 1),
            patience=options["patience"],
            report=report,
        ) as client:
            return await work(client, shown)

    _handle_signals(shown, job)
    with _reporting_errors(shown, job), shown:
        code = anyio.run(partial(run))
    if code:
        sys.exit(code)


@contextmanager
def _reporting_errors(shown: Display, job: "_Job") -> Iterator[None]:
    """Report an error and exit with its code."""
    try:
        yield
    except (GaplessError, OSError) as error:
        sys.exit(_report_error(shown, error, job))
    except Exception:  # noqa: BLE001 - a bug; its trace may contain secrets
        shown.failed(
            f"This is a bug of gapless, please report it.\n{traceback.format_exc()}",
            {"error": "InternalError", "exitCode": 1},
        )
        sys.exit(1)


def _report_error(
    shown: Display, error: GaplessError | OSError, job: _Job, code: int | None = None
) -> int:
    """Report an error and what to do. Returns ``code``, by default that of the error's class."""
    code = code or next((code for kind, code in EXIT_CODES if isinstance(error, kind)), 1)
    if isinstance(error, InputError) and error.code == "option":
        code = _USAGE
    facts: dict[str, Any] = {"error": type(error).__name__, "exitCode": code}
    if isinstance(error, InputError):
        facts["code"] = error.code
    if isinstance(error, InvalidRecordsError):
        found = [{"line": e.line, "path": e.path, "message": e.reason} for e in error.errors]
        shown.violations(found, error.count)
        facts |= {"count": error.count, "errors": found}
    if isinstance(error, InvalidRecordError):
        facts |= {"line": error.line, "column": error.column, "reason": error.reason}
    if isinstance(error, ApiError):
        facts |= {"status": error.status, "code": error.code, "problem": error.problem}
    message = str(error)
    if isinstance(error, OSError):
        name = f"{printable(str(error.filename))}: " if error.filename else ""
        message = f"{name}{error.strerror or error}"
    if advice := job.advice(error):
        message = f"{message.rstrip('.')}. {advice}"
    if job.sends and job.file is not None:
        facts["file"] = str(job.file)
        name = _name(job.file)
        if name not in message:
            message = f"{name}: {message}"
    shown.failed(message, facts)
    return code


def _handle_signals(shown: Display, job: _Job) -> None:
    """On a signal, delete temporary files and exit immediately, without waiting for threads.

    That loses nothing: acknowledged batches are stored, and the state was saved before the session
    was opened.
    """
    ending = threading.Lock()
    handled = set()

    def end(number: int, frame: object = None) -> None:
        del frame
        if not ending.acquire(blocking=False):
            return
        code = _SIGNALED + number
        try:
            atomic.delete_temporary_files()
            shown.restore()
            advice = job.advice(None)
            message = f"interrupted. {advice}" if advice else "interrupted"
            shown.interrupted(message, {"error": "Interrupted", "exitCode": code})
        finally:
            # Once more: another thread may have begun a file.
            atomic.delete_temporary_files()
            job.before_exit()
            os._exit(code)

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # An ignored signal stays ignored: nohup, and background jobs.
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, end)
            handled.add(number)
    if os.name == "posix":
        _watch(handled, end)


def _watch(numbers: set[int], end: Callable[[int], None]) -> None:
    """Call ``end`` from a thread if the main thread does not handle the signal in time.

    Python handles a signal that arrives just before a blocking call only after that call.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)

    def watch() -> None:
        while (number := os.read(reader, 1)[0]) not in numbers:
            pass
        time.sleep(_SIGNAL_SECONDS)
        end(number)

    threading.Thread(target=watch, daemon=True).start()


def _auth(options: dict[str, Any]) -> httpx.Auth | None:
    if options["aws"]:
        return SigV4Auth(region=options["region"])
    if options["token_command"]:
        return TokenAuth.from_command(options["token_command"])
    return TokenAuth(options["token"]) if options["token"] else None


def main() -> None:
    """Run the command."""
    tolerate_broken_streams()
    cli(prog_name="gapless")
