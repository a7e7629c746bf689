"""The batch decoder and Python's ``json`` differ only as README.md lists.

They get ``PROOF_SCALE`` times 200,000 documents, the same every time.
"""

import os
import re
from collections import Counter
from hashlib import sha1
from pathlib import Path
from random import Random

import pytest

from tests.fuzz import documents, reference
from tests.fuzz.documents import BUILD, CORPUS
from tests.fuzz.targets import TARGETS, DifferenceError, batch

pytestmark = pytest.mark.slow

DOCUMENTS = int(200_000 * float(os.environ.get("PROOF_SCALE", "1")))
README = (Path(__file__).parent / "README.md").read_text(encoding="utf-8")


@pytest.mark.timeout(max(600, DOCUMENTS // 500))
def test_it_takes_what_json_takes(capsys: pytest.CaptureFixture[str]) -> None:
    chance = Random(1)
    seen: Counter[str] = Counter()
    for _ in range(DOCUMENTS):
        document = documents.document(chance)
        try:
            seen[batch(document)] += 1
        except DifferenceError:
            crash = BUILD / "crashes" / f"batch-difference-{sha1(document).hexdigest()}"  # noqa: S324
            crash.parent.mkdir(parents=True, exist_ok=True)
            crash.write_bytes(document)
            print(f"python -m tests.fuzz batch {crash}")
            raise
    both = [seen.pop("both accept"), seen.pop("both refuse")]
    with capsys.disabled():
        classes = ", ".join(f"{name} {count:,}" for name, count in seen.most_common())
        print(
            f"\ndifferential: {DOCUMENTS:,} documents; both accept {both[0]:,}, both refuse"
            f" {both[1]:,}; they differ in {sum(seen.values()):,} of listed classes: {classes}; of"
            " others: 0"
        )
    assert seen.keys() <= reference.CLASSES.keys()
    # Rare: one needs 1,000 members; for the other, either parser may reach its depth limit first.
    rare = {"too many members", "nested deeply"}
    assert DOCUMENTS < 200_000 or seen.keys() >= reference.CLASSES.keys() - rare
    assert min(both) > DOCUMENTS // 10


def test_a_thousand_members_are_too_many() -> None:
    for count, expected in [(1_000, "both accept"), (1_001, "too many members")]:
        more = b"".join(b',"%d":0' % n for n in range(count - 2))
        assert batch(b'{"seqNum":0,"data":[1]' + more + b"}") == expected


def test_every_class_is_explained() -> None:
    explained = re.findall(r"^\| ([\w -]+?) \| .+ \| ([`\w, -]+) \|$", README, re.MULTILINE)
    listed = {name: set(re.findall(r"`(\w+)`", codes)) for name, codes in explained[1:]}
    assert explained[0][0] == "class"
    assert listed == reference.CLASSES


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_holds(name: str) -> None:
    files = sorted((CORPUS / name).iterdir())
    assert files
    for file in files:
        TARGETS[name](file.read_bytes())
