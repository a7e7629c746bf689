"""The file name of a download."""

import re
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uploads import file_name
from uploads.session import Session

ID = "0123456789abcdef0123456789abcdef"


def session(name: str | None) -> Session:
    metadata = {} if name is None else {"name": name}
    return Session(ID, "anybody", 1, None, 0, 1, 1, metadata=metadata)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (None, f"{ID}.ndjson"),
        ("", f"{ID}.ndjson"),
        (" ", f"{ID}.ndjson"),
        ("..", f"{ID}.ndjson"),
        ("orders.ndjson", "orders.ndjson"),
        ("orders.jsonl", "orders.jsonl"),
        # Other suffixes are the creator's choice.
        ("orders.csv", "orders.csv"),
        ("orders", "orders.ndjson"),
        ("orders 2026.11", "orders 2026.11.ndjson"),
        ("orders v1.2 (final)", "orders v1.2 (final).ndjson"),
        # A suffix of gzip is there exactly if the content is gzip.
        ("orders.ndjson.gz", "orders.ndjson"),
        ("orders.GZ", "orders.ndjson"),
        ("orders.csv.gz.gz", "orders.csv"),
        ("../../etc/passwd", "_.._etc_passwd.ndjson"),
        ("C:\\temp\\x.ndjson", "C__temp_x.ndjson"),
        ('a"; filename="b.exe', "a_; filename=_b.exe"),
        (".bashrc", "bashrc.ndjson"),
        ("x.ndjson. .", "x.ndjson"),
        ("Größe.ndjson", "Größe.ndjson"),
        ("100%41.ndjson", "100%41.ndjson"),
        ("日本語", "日本語.ndjson"),
        ("é" * 600 + ".jsonl", "é" * 124 + ".jsonl"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_names(name: str | None, expected: str) -> None:
    assert file_name.of(session(name), gzipped=False) == expected
    compressed = file_name.of(session(name), gzipped=True)
    assert compressed == f"{expected}.gz" or len(compressed.encode()) > 250


def test_headers() -> None:
    assert file_name.disposition("a b.ndjson") == 'attachment; filename="a b.ndjson"'
    expected = "attachment; filename=\"Gr__e _\"; filename*=UTF-8''Gr%C3%B6%C3%9Fe%20%E2%82%AC"
    assert file_name.disposition("Größe €") == expected
    # Some browsers decode percent-encoded names.
    assert 'filename="100_41.ndjson"' in file_name.disposition("100%41.ndjson")


PRINTABLE = st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp"))


@given(name=st.text(PRINTABLE), gzipped=st.booleans())
def test_no_name_breaks_out(name: str, *, gzipped: bool) -> None:
    saved = file_name.of(session(name), gzipped=gzipped)
    assert 0 < len(saved.encode()) <= 255
    assert not re.search(r'[/\\:*?"<>|]', saved)
    assert not saved.startswith((".", " "))
    assert saved.endswith(".gz") == gzipped
    header = file_name.disposition(saved)
    extended = r"(; filename\*=UTF-8''[!#$&+.^_`|~%0-9A-Za-z-]+)?"
    assert re.fullmatch(r'attachment; filename="[ !#-\[\]-~]+"' + extended, header)
    _, is_extended, name = header.partition("filename*=UTF-8''")
    if is_extended:
        assert unquote(name, errors="strict") == saved
    else:
        assert header == f'attachment; filename="{saved}"'
