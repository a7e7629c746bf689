#!/usr/bin/env python3.13
"""Builds the package of a function: ``python3.13 packing/pack.py aarch64 TARGET``.

``sam build`` runs it in a copy of ``functions``, through the Makefile of the architecture. Unlike
SAM's builder it takes every wheel that runs on Lambda, on any machine; leaves out unused files; and
compiles, because Lambda's file system is read-only.
"""

import compileall
import fcntl
import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import Any, Final

GLIBC: Final = range(17, 35)
"""Minor versions of glibc 2 that wheels may ask for. Lambda's Amazon Linux 2023 has 2.34."""
SCHEMAS: Final = Path("schemas")
"""JSON Schemas that sessions may name."""
SERVICES: Final = {"events", "s3", "stepfunctions"}
"""AWS services whose models botocore keeps. All others are half of the installed files."""


def main() -> None:
    """Build the package once for all functions of a build, and copy it."""
    processor, target = sys.argv[1], Path(sys.argv[2])
    # The digest in the name distinguishes it from packages of earlier builds.
    made = target.parent / f".package-{digest(processor)}"
    with made.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            unfinished = made.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            make(processor, unfinished)
            unfinished.rename(made)
    shutil.copytree(made, target, dirs_exist_ok=True)


def digest(processor: str) -> str:
    """A digest of everything that the package is made of."""
    found = hashlib.sha256(f"{processor} {sys.version}".encode())
    for path in sorted(Path().rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            content = path.read_bytes()
            found.update(f"{path} {len(content)}\n".encode() + content)
    return found.hexdigest()[:16]


def make(processor: str, target: Path) -> None:
    """Make the package."""
    install(processor, target)
    trim(target)
    add_schemas(target)
    for module in Path().glob("*.py"):
        shutil.copy(module, target)
    shutil.copytree("uploads", target / "uploads", ignore=shutil.ignore_patterns("__pycache__"))
    compiled = compileall.compile_dir(
        target,
        quiet=1,
        # Valid wherever it is unpacked, and whatever the files' dates.
        stripdir=str(target),
        invalidation_mode=PycInvalidationMode.UNCHECKED_HASH,
    )
    if not compiled:
        sys.exit("Some modules cannot be compiled.")


def add_schemas(target: Path) -> None:
    """Check and add the schemas; without any, remove jsonschema-rs."""
    if not any(SCHEMAS.glob("[!.]*")):
        for path in target.glob("jsonschema_rs*"):
            shutil.rmtree(path)
        return
    lines = Path("requirements.txt").read_text(encoding="utf-8").splitlines()
    needed = [line for line in lines if line.startswith(("jsonschema-rs=", "msgspec="))]
    with tempfile.TemporaryDirectory() as here:
        # Wheels for this machine, whose architecture may differ from the package's.
        subprocess.run(  # noqa: S603
            [
                *(sys.executable, "-m", "pip", "install", *needed, "--target", here, "--quiet"),
                *("--disable-pip-version-check", "--root-user-action=ignore"),
            ],
            check=True,
        )
        found = subprocess.run(  # noqa: S603
            [sys.executable, "packing/check_schemas.py", SCHEMAS],
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(Path.cwd()), here])},
            capture_output=True,
            text=True,
            check=False,
        )
    if found.returncode:
        sys.exit(f"{found.stdout}{found.stderr}\nA schema in functions/schemas cannot be deployed.")
    shutil.copytree(SCHEMAS, target / SCHEMAS, ignore=shutil.ignore_patterns(".*"))


def install(processor: str, target: Path) -> None:
    """Install the wheels of ``requirements.txt`` for ``processor``."""
    platforms = [f"manylinux_2_{minor}_{processor}" for minor in reversed(GLIBC)]
    subprocess.run(  # noqa: S603
        [
            *(sys.executable, "-m", "pip", "install", "--requirement", "requirements.txt"),
            *(f"--platform={name}" for name in [*platforms, f"manylinux2014_{processor}"]),
            *("--only-binary=:all:", "--target", target, "--no-compile", "--quiet"),
            *("--disable-pip-version-check", "--root-user-action=ignore"),
        ],
        check=True,
    )


def trim(target: Path) -> None:
    """Remove files that no function reads."""
    shutil.rmtree(target / "bin", ignore_errors=True)
    for stub in target.rglob("*.pyi"):
        stub.unlink()
    data = target / "botocore" / "data"
    for service in data.iterdir():
        if service.is_dir() and service.name not in SERVICES:
            shutil.rmtree(service)
    for packed in data.rglob("*.json.gz"):
        model = json.loads(gzip.decompress(packed.read_bytes()), object_hook=without_prose)
        write(packed.with_suffix(""), model)
        packed.unlink()
    endpoints = json.loads((data / "endpoints.json").read_bytes())
    for partition in endpoints["partitions"]:
        known = partition["services"]
        partition["services"] = {name: known[name] for name in known if name in SERVICES}
    write(data / "endpoints.json", endpoints)


def without_prose(model: dict[str, Any]) -> dict[str, Any]:
    """A part of a model without its documentation, three quarters of its size."""
    # botocore reads some of it, so it becomes an empty string.
    return {
        name: "" if name == "documentation" and isinstance(value, str) else value
        for name, value in model.items()
    }


def write(path: Path, value: object) -> None:
    """Write compact JSON."""
    path.write_text(json.dumps(value, separators=(",", ":")), encoding="utf-8")


if __name__ == "__main__":
    main()
