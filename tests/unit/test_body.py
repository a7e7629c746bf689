"""The transport of a body: encoding, length, digest, UTF-8."""

import base64
import gzip
import hashlib
from collections.abc import Callable, Mapping

import pytest

from tests.unit.bodies import batch, read_body, read_text, refusal
from uploads import errors
from uploads.decode.body import read_body as read_any
from uploads.decode.create import SESSION_ALLOWANCE

MOST_SENT = 4_500_000
MEDIA_TYPE = "application/vnd.gapless.batch+json"


@pytest.mark.parametrize("body", [None, ""])
@pytest.mark.parametrize("is_base64", [False, True])
def test_no_body(body: str | None, is_base64: bool) -> None:  # noqa: FBT001
    found = read_any(body, is_base64=is_base64, headers={"content-encoding": "gzip"})
    assert found == (b"", b"")


# --- How the body came ----------------------------------------------------------------------------

NOT_UTF8 = {
    "byte that never occurs": b"\xff",
    "lone continuation": b"\x80",
    "sequence broken off": b"\xc3(",
    "overlong": b"\xc0\x80",
    "encoded surrogate": b"\xed\xa0\x80",
    "surrogate pair encoded as two": b"\xed\xa0\xbd\xed\xb8\x80",
    "beyond U+10FFFF": b"\xf4\x90\x80\x80",
    "Latin-1": "é".encode("latin-1"),
}


@pytest.mark.parametrize("wrong", NOT_UTF8.values(), ids=NOT_UTF8)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_invalid_utf8_is_refused_with_its_offset(wrong: bytes, packed: bool) -> None:  # noqa: FBT001
    begin = '{"seqNum":0,"data":["é'.encode()
    body = begin + wrong + b'"]}'
    error = refusal(
        errors.InvalidUtf8Error,
        lambda: (
            read_body(gzip.compress(body), content_encoding="gzip") if packed else read_body(body)
        ),
    )
    assert error.members == {"offset": len(begin)}
    assert f"at byte {len(begin)}" in error.detail


@pytest.mark.parametrize("ending", [b"\xc3", b"\xe2\x82", b"\xf0\x9f\x98"])
def test_utf8_that_ends_too_early(ending: bytes) -> None:
    error = refusal(errors.InvalidUtf8Error, lambda: read_body(b'{"' + ending))
    assert error.members == {"offset": 2}


def test_text_that_lost_a_byte_on_its_way_is_refused() -> None:
    """The gateway replaces each invalid byte by U+FFFD, which has three bytes."""
    sent = b'{"seqNum":0,"data":["\xff"]}'
    arrived = sent.decode(errors="replace")
    error = refusal(
        errors.InvalidUtf8Error, lambda: read_text(arrived, content_length=str(len(sent)))
    )
    assert MEDIA_TYPE in error.detail


@pytest.mark.parametrize("times", [1, 2])
def test_the_error_for_undeclared_gzip_says_so(times: int) -> None:
    """``curl -T part.gz`` without a header; or a compressed file that was compressed again."""
    sent = gzip.compress(b'{"seqNum":0,"data":[1]}')
    error = refusal(
        errors.InvalidUtf8Error,
        lambda: (
            read_body(sent)
            if times == 1
            else read_body(gzip.compress(sent), content_encoding="gzip")
        ),
    )
    assert error.members == {"offset": 1}
    assert "Content-Encoding: gzip" in error.detail


def test_the_error_for_gzip_that_came_as_text_says_so() -> None:
    sent = gzip.compress(b'{"seqNum":0,"data":[1]}')
    error = refusal(
        errors.InvalidUtf8Error,
        lambda: read_text(sent.decode(errors="replace"), content_length=str(len(sent))),
    )
    assert "Content-Encoding: gzip" in error.detail
    assert MEDIA_TYPE in error.detail


@pytest.mark.parametrize("text", ['{"a":"é漢😀"}', '{"a":"\ufffd"}', "{}"])
def test_text_of_the_right_length_is_taken(text: str) -> None:
    body = text.encode()
    assert read_text(text, content_length=str(len(body))) == body
    assert read_text(text) == body


def test_text_with_half_of_a_surrogate_pair() -> None:
    error = refusal(errors.InvalidUtf8Error, lambda: read_text('{"a":"\ud83d"}'))
    assert error.members == {"offset": 6}


@pytest.mark.parametrize("length", ["5", "22", "24", "2300", "-23", "23x"])
def test_the_length_of_what_came_whole_does_not_matter(length: str) -> None:
    body = batch("[1]")
    assert read_body(body, content_length=length) == body


@pytest.mark.parametrize("length", ["2", "02", " 2 ", "2, 2", "2,2"])
def test_spellings_of_the_right_length(length: str) -> None:
    assert read_text("{}", content_length=length) == b"{}"


@pytest.mark.parametrize(
    "length", ["", "0", "3", "22", "-2", "+2", "2,3", "2.0", "two", "9" * 5000]
)
def test_wrong_lengths(length: str) -> None:
    refusal(errors.InvalidUtf8Error, lambda: read_text("{}", content_length=length))


@pytest.mark.parametrize(
    "body",
    [
        "A",
        "AAA",
        "A===",
        "AB=C",
        "e30",
        "e30=\n",
        "!!!!",
        "-_-_",
        "e30=e30=",
        "====",
        "    ",
        "éééé",
        "\ud800AAA",
        '{"totalRecord":1}',
    ],
)
def test_invalid_base64_is_refused(body: str) -> None:
    error = refusal(errors.InvalidBase64Error, lambda: read_any(body, is_base64=True, headers={}))
    assert error.status == 400


def test_the_error_for_a_create_that_inflates_to_too_much_names_the_limit() -> None:
    packed = base64.b64encode(gzip.compress(b"{}" + b" " * SESSION_ALLOWANCE.inflated)).decode()
    error = refusal(
        errors.InflatedTooLargeError,
        lambda: read_any(
            packed,
            is_base64=True,
            headers={"content-encoding": "gzip"},
            allowance=SESSION_ALLOWANCE,
        ),
    )
    assert "totalRecord, batchSize, format, metadata and schema" in error.detail
    assert "batches" not in error.detail


@pytest.mark.parametrize("encoding", ["identity", "Identity", " identity ", "", " "])
def test_identity(encoding: str) -> None:
    assert read_body(b"{}", content_encoding=encoding) == b"{}"
    assert read_text("{}", content_encoding=encoding) == b"{}"


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "Gzip", " gzip ", "x-gzip", "X-GZip"])
def test_gzip(encoding: str) -> None:
    body = batch("[1]")
    assert read_body(gzip.compress(body), content_encoding=encoding) == body


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "x-gzip"])
@pytest.mark.parametrize("text", ["\x1f\ufffd\x08", '{"seqNum":0,"data":[1]}'])
def test_gzip_that_came_as_text(encoding: str, text: str) -> None:
    error = refusal(errors.GzipAsTextError, lambda: read_text(text, content_encoding=encoding))
    assert error.status == 415
    assert error.members == {"expected": MEDIA_TYPE}
    assert f"Content-Type: {MEDIA_TYPE}" in error.detail


@pytest.mark.parametrize(
    "encoding", ["br", "deflate", "zstd", "compress", "gzip, gzip", "gzip, br", "utf-8", "é" * 5000]
)
@pytest.mark.parametrize("read", [lambda e: read_body(b"{}", **e), lambda e: read_text("{}", **e)])
def test_unknown_encodings(read: Callable[[Mapping[str, str]], bytes], encoding: str) -> None:
    error = refusal(errors.UnsupportedEncodingError, lambda: read({"content_encoding": encoding}))
    assert error.status == 415
    assert error.members == {"supported": ["gzip", "identity"]}
    assert "use gzip, or none" in error.detail
    assert len(error.detail) < 200


def padded(length: int) -> bytes:
    """A batch of exactly this many bytes."""
    return batch(f'["{"x" * (length - len(batch("[]")) - 2)}"]')


@pytest.mark.parametrize("off", [-1, 0, 1])
@pytest.mark.parametrize("form", ["base64", "text", "text beyond ASCII"])
def test_the_largest_body(form: str, off: int) -> None:
    body = padded(MOST_SENT + off)
    if form == "text beyond ASCII":
        body = body.replace(b"xx", "é".encode())
    assert len(body) == MOST_SENT + off

    def read() -> bytes:
        return read_body(body) if form == "base64" else read_text(body.decode())

    if off <= 0:
        assert read() == body
        return
    error = refusal(errors.BodyTooLargeError, read)
    assert error.status == 413
    assert error.members == {"limit": MOST_SENT}
    assert "Send smaller batches, or compress them" in error.detail


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_the_largest_compressed_body(off: int) -> None:
    """The limit applies to the sent bytes; a file name in the header makes up the length."""
    content = padded(MOST_SENT - 10_000)
    packed = gzip.compress(content, 0)
    named = MOST_SENT + off - len(packed) - 1
    body = packed[:3] + b"\x08" + packed[4:10] + b"n" * named + b"\0" + packed[10:]
    assert len(body) == MOST_SENT + off
    if off <= 0:
        assert read_body(body, content_encoding="gzip") == content
    else:
        refusal(errors.BodyTooLargeError, lambda: read_body(body, content_encoding="gzip"))


# --- Content-Digest -------------------------------------------------------------------------------

BODY = batch('["é"]')


def digest(body: bytes, algorithm: str = "sha256") -> str:
    return base64.b64encode(hashlib.new(algorithm, body).digest()).decode()


RIGHT = f"sha-256=:{digest(BODY)}:"
WRONG = f"sha-256=:{digest(b'{}')}:"
SHA512 = f"sha-512=:{digest(BODY, 'sha512')}:"

GOOD_DIGESTS = {
    "alone": RIGHT,
    "first of two": f"{RIGHT}, {SHA512}",
    "last of two": f"{SHA512}, {RIGHT}",
    "without a space": f"{SHA512},{RIGHT}",
    "among unknown ones": f"unixsum=:AAAA:, {RIGHT}, crc32c=:AAAA:",
    "with a wrong one of another algorithm": f"sha-512=:AAAA:, {RIGHT}",
    "with a parameter": f"{RIGHT};a=1",
    "with space around": f"  {RIGHT}  ",
    "with parameters of every type": (
        f'{RIGHT};a;b=?0;c=-1.5;d=@1659578233;e="\\"\\\\, x";f=tok/en:*;g=:AAAA:;h=%"%c3%a9"; i=1'
    ),
    # RFC 9651, 3.2: the last value of a repeated key counts.
    "after a wrong one": f"{WRONG}, {RIGHT}",
    "after one that is not a byte sequence": f"sha-256, sha-256=(1 2), {RIGHT}",
    "after a wrong one in a string": f'x="a, {WRONG}", {RIGHT}',
    "before a wrong one in a string": f'{RIGHT};x=", {WRONG}"',
    "after a wrong one in an inner list": f'x=("a, {WRONG}";sha-256=:AAAA: {WRONG[8:]});y, {RIGHT}',
    "after an empty inner list": f"x=( ),{RIGHT}",
    "with tabs around the comma": f"{SHA512}\t,\t{RIGHT}",
    # RFC 9651, 4.2.7: missing padding should be accepted.
    "without its padding": f"sha-256=:{digest(BODY).rstrip('=')}:",
}


@pytest.mark.parametrize("header", GOOD_DIGESTS.values(), ids=GOOD_DIGESTS)
def test_right_digests(header: str) -> None:
    assert read_body(BODY, content_digest=header) == BODY
    assert read_text(BODY.decode(), content_digest=header) == BODY


def test_the_digest_is_over_the_bytes_as_sent() -> None:
    packed = gzip.compress(BODY)
    sent = f"sha-256=:{digest(packed)}:"
    assert read_body(packed, content_encoding="gzip", content_digest=sent) == BODY
    error = refusal(
        errors.DigestMismatchError,
        lambda: read_body(packed, content_encoding="gzip", content_digest=RIGHT),
    )
    assert "as sent" in error.detail
    assert "after compression" in error.detail


@pytest.mark.parametrize(
    "header",
    [
        WRONG,
        f"{SHA512}, {WRONG}",
        f"{WRONG},{SHA512}",
        f"{RIGHT}, {WRONG}",
        f'x="a, {RIGHT}", {WRONG}',
        f'{WRONG};x=", {RIGHT}"',
    ],
)
def test_wrong_digests(header: str) -> None:
    error = refusal(
        errors.DigestMismatchError, lambda: read_text(BODY.decode(), content_digest=header)
    )
    assert error.members == {"expected": digest(b"{}"), "received": digest(BODY)}
    assert "Send it again" in error.detail


def test_a_digest_shows_damage_before_anything_else_does() -> None:
    damaged = BODY[:-4]
    refusal(errors.DigestMismatchError, lambda: read_body(damaged, content_digest=RIGHT))
    refusal(
        errors.DigestMismatchError,
        lambda: read_body(b"not gzip", content_encoding="gzip", content_digest=RIGHT),
    )


BAD_DIGESTS = {
    "empty": "",
    "no value": "sha-256",
    "not a byte sequence": f"sha-256={digest(BODY)}",
    "opened only": f"sha-256=:{digest(BODY)}",
    "closed only": f"sha-256={digest(BODY)}:",
    "a string": f'sha-256="{digest(BODY)}"',
    "nothing in it": "sha-256=::",
    "too short": "sha-256=:AAAA:",
    "too long": f"sha-256=:{digest(BODY, 'sha512')}:",
    "URL-safe alphabet": "sha-256=:" + "_-" * 21 + "_=:",
    "not base64": "sha-256=:" + "%" * 44 + ":",
    "hexadecimal": f"sha-256=:{hashlib.sha256(BODY).hexdigest()}:",
    "another algorithm only": SHA512,
    "a name that ends alike": f"x{RIGHT}",
    "a name that begins alike": RIGHT.replace("256", "256x"),
    "Digest of RFC 3230": f"SHA-256={digest(BODY)}",
    "an upper-case key": f"SHA-256=:{digest(BODY)}:",
    "in a string alone": f'x="a, {RIGHT}"',
    "in an inner list alone": f"x=({RIGHT[8:]})",
    "a parameter alone": f"x;{RIGHT}",
    "an inner list": f"sha-256=({RIGHT[8:]})",
    "no byte sequence after a right one": f"{RIGHT}, sha-256",
    "a comma at its end": f"{RIGHT},",
    "a comma at its beginning": f",{RIGHT}",
    "two commas": f"{SHA512},,{RIGHT}",
    "something behind it": f"{RIGHT} x",
    "something close behind it": f"{RIGHT}x",
    "something broken before it": f"%%%, {RIGHT}",
    "a string without its end": f'x="a, {RIGHT}',
    "an inner list without its end": f"x=(1, {RIGHT}",
    "an integer of 16 digits": f"x=1234567890123456, {RIGHT}",
    "space around the equals sign": RIGHT.replace("=", " = ", 1),
    "a line end behind it": f"{RIGHT}\n",
    "space that is none in HTTP": f"\u00a0{RIGHT}",
    "padding in the middle": "sha-256=:" + "AA==" * 10 + "AAA=:",
    "very many members": "a," * 50_000,
    "very many escapes": 'a="' + '\\"' * 50_000,
}


@pytest.mark.parametrize("header", BAD_DIGESTS.values(), ids=BAD_DIGESTS)
def test_malformed_digests(header: str) -> None:
    error = refusal(
        errors.InvalidContentDigestError, lambda: read_body(BODY, content_digest=header)
    )
    assert "sha-256=:…:" in error.detail
    assert "RFC 9530" in error.detail
