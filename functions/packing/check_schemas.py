#!/usr/bin/env python3.13
"""Checks the schemas that are to be deployed against the functions' limits.

``python check_schemas.py FOLDER`` reports each schema, and exits with 1 if one cannot be deployed.
It needs the functions' code, msgspec and jsonschema-rs on its path. Limits on its own process end
checks that take too long.
"""

import json
import re
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from uploads.decode.records import RecordCheck

NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}\.json")
MOST_BYTES: Final = 256 * 1024
MOST_STEPS: Final = 1_000
"""Most subschemas, patterns and enum values that may be tried for one value of a record. A record
may have 200,000 values, and a step takes about 50 ns."""
CPU_SECONDS: Final = 60
MEMORY_BYTES: Final = 2 * 2**30

IN_PLACE: Final = ("not", "if", "then", "else", "propertyNames", "contains")
IN_PLACE_LISTS: Final = ("allOf", "anyOf", "oneOf")
IN_PLACE_MEMBERS: Final = ("dependentSchemas", "dependencies")
MEMBERS: Final = ("properties", "patternProperties", "$defs", "definitions", *IN_PLACE_MEMBERS)
NOT_SCHEMAS: Final = ("enum", "const", "default", "examples")


def main() -> None:
    """Check every file of the folder."""
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    wrong = 0
    for path in sorted(Path(sys.argv[1]).glob("[!.]*")):
        sys.stdout.write(f"schema {path.name}: ")
        # If the process is killed, the output ends with the name of the schema.
        sys.stdout.flush()
        try:
            check(path)
        except (ValueError, RecursionError) as error:
            wrong += 1
            sys.stdout.write(f"{error}\n")
        else:
            sys.stdout.write("compiles\n")
    sys.exit(1 if wrong else 0)


def check(path: Path) -> None:
    """Raise ValueError with the reason if the schema cannot be deployed."""
    if not NAME.fullmatch(path.name):
        raise ValueError(
            "the name must be 1 to 64 of the characters a-z, 0-9, '.', '_' and '-', not begin with"
            " one of the last three, and end with .json"
        )
    if not path.is_file():
        raise ValueError("it is not a file: schemas must be in the folder itself")
    text = path.read_bytes()
    if len(text) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES} bytes")
    schema = json.loads(text, object_pairs_hook=without_repeats)
    RecordCheck(text)
    for part in subschemas(schema):
        if steps(part, schema, {}) > MOST_STEPS:
            raise ValueError(
                f"checking one value takes more than {MOST_STEPS} subschemas, patterns, or values"
                " of an enum that are not strings"
            )


def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object from ``pairs``. Raises ValueError if a member is repeated."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("it has an object with a member that is given twice")
    return found


def subschemas(schema: object) -> Iterator[dict[str, Any]]:
    """The schema and all its subschemas."""
    if isinstance(schema, list):
        for one in schema:
            yield from subschemas(one)
    elif isinstance(schema, dict):
        yield schema
        for name, value in schema.items():
            if name in MEMBERS and isinstance(value, dict):
                for one in value.values():
                    yield from subschemas(one)
            elif name not in NOT_SCHEMAS:
                yield from subschemas(value)


def steps(schema: object, root: object, known: dict[int, int]) -> int:
    """How many subschemas, patterns and enum values may be tried for one value."""
    if not isinstance(schema, dict):
        return 1
    if id(schema) in known:
        return known[id(schema)]
    # A schema that refers to itself is counted once, since validation also follows it once.
    known[id(schema)] = 0
    parts = [schema[name] for name in IN_PLACE if name in schema]
    for name in IN_PLACE_LISTS:
        parts += schema.get(name, [])
    for name in IN_PLACE_MEMBERS:
        parts += schema.get(name, {}).values()
    if isinstance(target := schema.get("$ref"), str):
        parts.append(find(target, root))
    total = 1 + sum(steps(part, root, known) for part in parts)
    values = schema.get("enum", [])
    if not all(isinstance(value, str) for value in values):
        total += len(values)
    total += len(schema.get("patternProperties", ()))
    known[id(schema)] = total
    return total


def find(reference: str, root: object) -> object:
    """The target of a JSON Pointer within the schema; None for any other reference."""
    node = root
    if not reference.startswith("#"):
        return None
    for step in reference[1:].split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(node, dict):
            node = node.get(name)
        elif isinstance(node, list) and name.isdecimal() and int(name) < len(node):
            node = node[int(name)]
        else:
            return None
    return node


if __name__ == "__main__":
    main()
