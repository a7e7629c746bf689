"""The ``gapless`` command.

Exit codes are what a script can act on:

====  =============================================================================
0     done, and what is stored is what was sent
1     the service refused, or something else failed; the message says what
2     the command line is wrong
3     the input cannot be sent: a malformed record, or a file that has changed
4     the session is not whole: send what is missing, then finish again
5     the service could not be reached in time: run ``gapless resume`` later
6     the credentials were refused: run ``gapless resume`` with new ones
7     a checksum does not match: what is stored, or downloaded, is not what was sent
130   interrupted: ``gapless resume`` goes on
====  =============================================================================
"""

import re
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import anyio
import anyio.to_thread
import click
import httpx
import msgspec

from gapless import records, state, uploads
from gapless.auth import SigV4Auth, TokenAuth, TokenError
from gapless.conformance import Service
from gapless.conformance import run as run_checks
from gapless.display import Display, display
from gapless.errors import (
    ApiError,
    AuthError,
    ChecksumError,
    GaplessError,
    IncompleteError,
    InputError,
    InvalidRecordError,
    StateError,
    UnavailableError,
)
from gapless.reading import Format, read_options
from gapless.sessions import AsyncClient, Limits, Result

EXIT_CODES: Final[list[tuple[type[GaplessError], int]]] = [
    (InputError, 3),
    (IncompleteError, 4),
    (UnavailableError, 5),
    (AuthError, 6),
    (TokenError, 6),
    (ChecksumError, 7),
    (StateError, 2),
]
_INTERRUPTED: Final = 130
_SESSION_ID: Final = re.compile(r"[0-9a-f]{32}")

_Command = TypeVar("_Command", bound=Callable[..., Any])


def _options(*, sends: bool = False) -> Callable[[_Command], _Command]:
    """The options of every command, and those of the commands that send."""
    common = [
        click.option("--url", envvar="GAPLESS_URL", help="Where the service is. [GAPLESS_URL]"),
        click.option(
            "--token",
            envvar="GAPLESS_TOKEN",
            help="A bearer token. Better in GAPLESS_TOKEN, where other users do not see it.",
        ),
        click.option(
            "--token-command",
            envvar="GAPLESS_TOKEN_COMMAND",
            help="A command that prints a token; run again when a token has run out."
            " [GAPLESS_TOKEN_COMMAND]",
        ),
        click.option(
            "--aws", is_flag=True, envvar="GAPLESS_AWS", help="Sign with AWS credentials (SigV4)."
        ),
        click.option("--region", help="The AWS region, where the URL does not have it."),
        click.option(
            "--patience",
            type=click.FloatRange(min=0),
            default=300.0,
            show_default=True,
            help="Seconds that each request is tried for.",
        ),
        click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line."),
    ]
    sending = [
        click.option(
            "--parallel",
            type=click.IntRange(1, 64),
            default=8,
            show_default=True,
            help="The most requests at once; how many is found by trying.",
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
        type=click.Choice([form.value for form in Format]),
        help="How the records stand in the file; otherwise name and content say.",
    ),
    click.option(
        "--delimiter",
        metavar="CHARACTER",
        help="Of CSV and TSV: a character, or comma, semicolon, tab, pipe.",
    ),
    click.option(
        "--encoding",
        help="Of the text, where it is neither UTF-8 nor UTF-16 with a byte order mark:"
        " windows-1252, utf-16le …",
    ),
    click.option(
        "--header/--no-header",
        default=None,
        help="Whether the first row of CSV and TSV names the columns. Without, rows are arrays.",
    ),
    click.option(
        "--typed",
        is_flag=True,
        help="CSV and TSV: send numbers, true, false and empty cells as JSON numbers, booleans and"
        " null. Otherwise every cell is a string.",
    ),
    click.option(
        "--skip-invalid",
        is_flag=True,
        help="Leave out records that are malformed, and write them to FILE.invalid.",
    ),
]


def _input_options(command: _Command) -> _Command:
    for option in reversed(_INPUT_OPTIONS):
        command = option(command)
    return command


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="gapless")
def cli() -> None:
    """Upload large data sets: one complete object, or exactly what is missing.

    \b
    Examples:
      export GAPLESS_URL=http://localhost:3000
      gapless upload orders.ndjson          send it, finish, check what is stored
      gapless resume orders.ndjson          after a crash: send only what is missing
      gapless download orders.ndjson        the merged object, to orders.merged.ndjson
      pg_dump_as_json | gapless upload -    from a pipe
      gapless status 1f6d0e9c52b84a7fb3d27c0a94e8f615
      gapless conformance https://…         does this service keep the guarantees?

    \b
    Shell completion (zsh and fish likewise):
      eval "$(_GAPLESS_COMPLETE=bash_source gapless)"

    \b
    Exit codes:
      0 done   1 refused   2 usage   3 bad input   4 gaps   5 unreachable
      6 credentials   7 checksum   130 interrupted
    """


@cli.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, allow_dash=True))
@_input_options
@click.option("--batch-size", type=click.IntRange(1), help="Records in a batch; otherwise chosen.")
@click.option("--new", "anew", is_flag=True, help="Start over where an upload is unfinished.")
@_options(sends=True)
def upload(files: tuple[Path, ...], **options: Any) -> None:  # noqa: ANN401 - click's
    """Upload FILES, each into a session of its own, finish, and check what is stored.

    NDJSON, a JSON array, CSV or TSV, each also as .gz; - is standard input. Nothing is sent before
    the whole file was read once: a malformed record is named by its line and column.

    \b
    Examples:
      gapless upload orders.ndjson --url http://localhost:3000
      gapless upload january.csv.gz february.csv.gz --typed
      zcat orders.gz | gapless upload - --format ndjson
      gapless upload orders.ndjson --aws                      signed, AuthMode IAM
      gapless upload orders.ndjson --token-command "get-token --audience uploads"
    """

    async def work(client: AsyncClient, shown: Display) -> None:
        for file in files:
            with _source(file, options) as source:
                result = await uploads.upload(
                    client, source, batch_size=options["batch_size"], anew=options["anew"]
                )
            _show(shown, result, file)

    _run(work, options, options["url"])


@cli.command()
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@_input_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one object a line.")
def inspect(file: Path, **options: Any) -> None:  # noqa: ANN401 - click's
    """Show how FILE is read, its first records and its counts; sends nothing.

    \b
    Examples:
      gapless inspect orders.csv
      gapless inspect export.txt --format csv --delimiter semicolon
    """
    shown = display(as_json=options["as_json"])
    with _ending(shown), shown, _source(file, options) as source:
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
                    _counted(found),
                ]
            ),
            facts,
        )


@cli.command()
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--session", help="The session's id, where this machine does not know it.")
@_input_options
@_options(sends=True)
def resume(file: Path, session: str | None, **options: Any) -> None:  # noqa: ANN401 - click's
    """Go on with the upload of FILE: send only what the service has not stored, and finish.

    \b
    Examples:
      gapless resume orders.ndjson
      gapless resume orders.ndjson --session 1f6d0e9c52b84a7fb3d27c0a94e8f615 \\
        --url http://localhost:3000                           on another machine
    """
    begun = state.load(file)
    if begun and session not in {None, begun.session_id}:
        begun = None
    session_id = session or (begun.session_id if begun else None)

    async def work(client: AsyncClient, shown: Display) -> None:
        if session_id is None:
            raise StateError(f"No upload of {file} is known here. Give its --session.")
        if begun:
            result = await uploads.resume(client, uploads.source_of(begun), session_id, begun)
        else:
            with _source(file, options) as source:
                result = await uploads.resume(client, source, session_id)
        _show(shown, result, file)

    _run(work, options, options["url"] or (begun.url if begun else None))


@cli.command()
@click.argument("target")
@_options()
def status(target: str, **options: Any) -> None:  # noqa: ANN401 - click's
    """Show what has arrived of TARGET, a file or a session's id, and what is missing.

    \b
    Examples:
      gapless status orders.ndjson
      gapless status 1f6d0e9c52b84a7fb3d27c0a94e8f615 --url http://localhost:3000
    """

    async def work(client: AsyncClient, shown: Display, session_id: str, _: object) -> None:
        found = await client.session(session_id).status()
        facts = msgspec.to_builtins(found)
        number = sum(gap.last - gap.first + 1 for gap in found.missing)
        more = "more than " if found.missing_truncated else ""
        shown.result(
            f"session {found.session_id}: {found.state}, {found.total_record:,} records,"
            f" {found.batches:,} batches stored, {more}{number:,} missing,"
            f" expires {facts['expiresAt']}",
            facts,
        )
        if found.missing:
            shown.gaps(facts["missing"], found.batch_size, found.total_record)

    _run_on(target, work, options)


@cli.command()
@click.argument("target")
@_options()
def finish(target: str, **options: Any) -> None:  # noqa: ANN401 - click's
    """Check TARGET, a file or a session's id, for gaps, and merge it; sends nothing.

    Repeatable. Prints what is missing, and exits with 4, where the session is not whole.

    \b
    Example:
      gapless finish orders.ndjson
    """

    async def work(
        client: AsyncClient, shown: Display, session_id: str, begun: state.State | None
    ) -> None:
        session = client.session(session_id)
        result = await session.finish()
        if not result.ok:
            facts = msgspec.to_builtins(result)
            batch_size = (await session.status()).batch_size
            shown("finish", facts)
            shown.gaps(facts["missing"], batch_size, result.total_record)
            raise result.incomplete()
        if begun:
            uploads.verify(result, begun.plan)
            state.save(msgspec.structs.replace(begun, finished=True))
        _show(shown, result, target, checked=begun is not None)

    _run_on(target, work, options)


@cli.command()
@click.argument("target")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to write; otherwise NAME.merged.ndjson, or NAME.manifest.json, in this folder.",
)
@click.option(
    "--manifest", is_flag=True, help="Get the manifest: where each batch is, its SHA-256."
)
@_options()
def download(
    target: str,
    output: Path | None,
    manifest: bool,
    **options: Any,  # noqa: ANN401 - click's
) -> None:
    """Download what was merged of TARGET, a file or a session's id: there whole, or not at all.

    \b
    Examples:
      gapless download orders.ndjson
      gapless download 1f6d0e9c52b84a7fb3d27c0a94e8f615 -o merged.ndjson
      gapless download orders.ndjson --manifest
    """
    name = Path(target).name.split(".")[0] or target
    path = output or Path(f"{name}.{'manifest.json' if manifest else 'merged.ndjson'}")

    async def work(client: AsyncClient, shown: Display, session_id: str, _: object) -> None:
        session = client.session(session_id)
        size = await (session.manifest(path) if manifest else session.download(path))
        shown.result(
            f"{path}: {size:,} bytes" + ("" if manifest else ", its checksum is right"),
            {"sessionId": session_id, "file": str(path), "bytes": size},
        )

    _run_on(target, work, options)


@cli.command()
@click.argument("target")
@_options()
def abort(target: str, **options: Any) -> None:  # noqa: ANN401 - click's
    """Give TARGET, a file's upload or a session's id, up; the service deletes its batches.

    \b
    Example:
      gapless abort orders.ndjson
    """

    async def work(
        client: AsyncClient, shown: Display, session_id: str, begun: state.State | None
    ) -> None:
        await client.session(session_id).abort()
        if begun:
            state.forget(Path(target))
        shown.result(f"session {session_id}: aborted", {"sessionId": session_id, "aborted": True})

    _run_on(target, work, options)


@cli.command()
@click.argument("service", required=False)
@click.option("--only", multiple=True, help="Run only checks whose name holds this; repeatable.")
@_options()
def conformance(service: str | None, only: tuple[str, ...], **options: Any) -> None:  # noqa: ANN401 - click's
    """Check that SERVICE, a URL, keeps the protocol and its guarantees.

    Any deployment will do, or another implementation. The checks open small sessions of their own,
    which expire by themselves. Exits with 1 where one fails.

    \b
    Examples:
      gapless conformance http://localhost:3000
      gapless conformance https://….amazonaws.com --aws --json
      gapless conformance --only finish --only gap
    """

    def check(url: str, shown: Display) -> None:
        tested = Service(url, _auth(options))
        outcomes = []
        for outcome in run_checks(tested, only):
            outcomes.append(outcome)
            shown("check", outcome.facts())
        tested.close()
        shown.checks(outcomes)
        failed = sum(not outcome.passed for outcome in outcomes)
        said = f"{len(outcomes)} checks, {tested.requests:,} requests, {failed} failed"
        if failed or not outcomes:
            raise GaplessError(f"{tested.url}: {said}")
        facts = {"checks": len(outcomes), "requests": tested.requests, "failed": failed}
        shown.result(f"{tested.url}: {said}", facts)

    async def work(client: AsyncClient, shown: Display) -> None:
        await anyio.to_thread.run_sync(check, client.url, shown)

    _run(work, options, service or options["url"])


@contextmanager
def _source(file: Path, options: dict[str, Any]) -> Iterator[uploads.Source]:
    names = ("format", "delimiter", "encoding", "header", "typed")
    how = read_options(**{name: options[name] for name in names})
    if str(file) != "-":
        yield uploads.Source(file, how, options["skip_invalid"])
        return
    pipe = iter(lambda: sys.stdin.buffer.read(records.CHUNK), b"")
    with uploads.spooled(pipe) as path:
        if not path.stat().st_size:
            raise InputError("Nothing came in: did the command before the pipe fail?", "empty")
        aside = Path("stdin.invalid")
        yield uploads.Source(
            path, how, options["skip_invalid"], remembered=False, aside=aside, label="-"
        )


def _show(shown: Display, result: Result, name: object, *, checked: bool = True) -> None:
    facts = msgspec.to_builtins(result) | {"file": str(name), "verified": checked}
    proof = ", and what is stored is what was sent" if checked else ""
    plural = "batch" if result.batches == 1 else "batches"
    shown.result(
        f"{result.key}: {result.received_record or 0:,} records, {result.bytes:,} bytes"
        f" in {result.batches:,} {plural}{proof}"
        + (f"; read as {result.reading}" if result.reading else ""),
        facts,
    )


def _counted(found: uploads.Scan) -> str:
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
        f"{number:,} {one if number == 1 else more}"
        for number, one, more in always + [counted for counted in maybe if counted[0]]
    )


_Work = Callable[[AsyncClient, Display], Awaitable[None]]
_WorkOn = Callable[[AsyncClient, Display, str, "state.State | None"], Awaitable[None]]


def _run_on(target: str, work: _WorkOn, options: dict[str, Any]) -> None:
    """Run ``work`` on the session that ``target`` names."""
    begun = state.load(Path(target))
    session_id = begun.session_id if begun else target

    async def known(client: AsyncClient, shown: Display) -> None:
        if not _SESSION_ID.fullmatch(session_id):
            raise StateError(f"No upload of {target} is known here, and it is no session's id.")
        await work(client, shown, session_id, begun)

    _run(known, options, options["url"] or (begun.url if begun else None))


def _run(work: _Work, options: dict[str, Any], url: str | None) -> None:
    """Run ``work`` with a client; ends the process with the code of what went wrong."""
    shown = display(as_json=options["as_json"])

    async def run() -> None:
        if not url:
            raise StateError("Say where the service is: --url, or GAPLESS_URL.")
        async with AsyncClient(
            url,
            auth=_auth(options),
            gzip=not options.get("no_gzip"),
            parallel=options.get("parallel", 1),
            patience=options["patience"],
            report=shown,
        ) as client:
            await work(client, shown)

    with _ending(shown), shown:
        anyio.run(partial(run))


@contextmanager
def _ending(shown: Display) -> Iterator[None]:
    """Say what went wrong, and end the process with its code."""
    try:
        yield
    except GaplessError as error:
        code = next((code for kind, code in EXIT_CODES if isinstance(error, kind)), 1)
        facts: dict[str, Any] = {"error": type(error).__name__, "exitCode": code}
        if isinstance(error, InputError):
            facts["code"] = error.code
        if isinstance(error, InvalidRecordError):
            facts |= {"line": error.line, "column": error.column, "reason": error.reason}
        if isinstance(error, ApiError):
            facts |= {"status": error.status, "code": error.code, "problem": error.problem}
        shown.failed(str(error), facts)
        sys.exit(code)
    except OSError as error:
        shown.failed(str(error), {"error": type(error).__name__, "exitCode": 1})
        sys.exit(1)
    except KeyboardInterrupt:
        shown.failed(
            "interrupted. Go on with: gapless resume",
            {"error": "Interrupted", "exitCode": _INTERRUPTED},
        )
        sys.exit(_INTERRUPTED)


def _auth(options: dict[str, Any]) -> httpx.Auth | None:
    if options["aws"]:
        return SigV4Auth(region=options["region"])
    if options["token_command"]:
        return TokenAuth.from_command(options["token_command"])
    return TokenAuth(options["token"]) if options["token"] else None


def main() -> None:
    """Run the command."""
    cli(prog_name="gapless")
