"""Packages made by ``sam build``: each handler, its imports, and nothing else."""

import json
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

from local import sam
from local.runtime import RUNTIME, runtime_bin

pytestmark = pytest.mark.slow

FUNCTIONS = sam.ROOT / "functions"
PINNED = set(re.findall(r"^([\w-]+)==", (FUNCTIONS / "requirements.txt").read_text(), re.MULTILINE))
VALIDATES = "jsonschema-rs"
"""The package that only a build with schemas contains."""
THEIR_NEEDS = {"jmespath", "python-dateutil", "s3transfer", "six", "typing-extensions", "urllib3"}
HANDLERS = ["sessions", "batches", "finish"]
MACHINES = {"x86_64": 62, "arm64": 183}
"""Machine numbers in the ELF header."""
MOST_BYTES = 40 * 2**20
MOST_MODULES = 290
"""Maximum modules that the batch function imports, including Python's: each costs start time."""

START = """
import json, sys
opened, compiled = [], []
def note(event, given):
    if event == "open":
        opened.append(str(given[0]))
    if event == "compile" and str(given[1]).endswith(".py"):
        compiled.append(str(given[1]))
sys.addaudithook(note)
sys.path.insert(0, ".")
import {handler}
assert callable({handler}.lambda_handler)
print(json.dumps({{"modules": sorted(sys.modules), "opened": opened, "compiled": compiled}}))
"""


@cache
def build(target: Path, architecture: str) -> Path:
    """The folder that ``sam build`` fills."""
    if runtime_bin() is None:
        pytest.skip(f"sam build needs {RUNTIME}, which is not on the path")
    overrides = ("--parameter-overrides", f"Architecture={architecture}")
    done = subprocess.run(
        sam.command("build", "--no-cached", "--build-dir", target, *overrides),
        cwd=sam.ROOT,
        env=sam.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return target


@pytest.fixture(params=MACHINES)
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages for each architecture, built on any machine."""
    return build(tmp_path_factory.getbasetemp() / request.param, request.param)


@pytest.fixture
def built_here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages for this machine."""
    return build(tmp_path_factory.getbasetemp() / sam.ARCHITECTURE, sam.ARCHITECTURE)


def package_of(built: Path, handler: str) -> Path:
    return built / f"{handler.capitalize()}Function"


def python(script: str, folder: Path) -> str:
    """The output of a script in the functions' Python, with the template's settings."""
    settings = {
        "SESSIONS_TABLE": "t",
        "BATCHES_BUCKET": "b",
        "MERGED_BUCKET": "m",
        "AUTH_MODE": "IAM",
        "SESSION_LIFETIME_HOURS": "24",
        "MERGED_RETENTION_DAYS": "30",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
        "POWERTOOLS_METRICS_NAMESPACE": "Gapless",
    }
    done = subprocess.run(
        [Path(runtime_bin() or "") / RUNTIME, "-I", "-B", "-c", script],
        cwd=folder,
        env=settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def started(built: Path, handler: str) -> dict[str, list[str]]:
    seen: dict[str, list[str]] = json.loads(
        python(START.format(handler=handler), package_of(built, handler))
    )
    return seen


@pytest.mark.parametrize("handler", HANDLERS)
def test_a_package_is_whole_and_holds_nothing_else(built: Path, handler: str) -> None:
    package = package_of(built, handler)
    installed = {
        path.name.partition("-")[0].replace("_", "-") for path in package.glob("*.dist-info")
    }
    assert installed == (PINNED | THEIR_NEEDS) - {VALIDATES}
    theirs = {
        line.partition(",")[0].partition("/")[0]
        for record in package.glob("*.dist-info/RECORD")
        for line in record.read_text().splitlines()
    }
    ours = {path.name for path in FUNCTIONS.glob("*.py")}
    top = {path.name for path in package.iterdir()}
    # RECORD also lists commands: `../../bin/…`.
    assert top == (theirs - {"..", "bin"}) | ours | {"uploads", "__pycache__"}
    packed = package / "uploads"
    assert {path.relative_to(packed) for path in packed.rglob("*.py")} == {
        path.relative_to(FUNCTIONS / "uploads") for path in (FUNCTIONS / "uploads").rglob("*.py")
    }


@pytest.mark.parametrize("handler", HANDLERS)
def test_a_package_is_small(built: Path, handler: str) -> None:
    package = package_of(built, handler)
    files = [path for path in package.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MOST_BYTES
    models = {path.name for path in (package / "botocore" / "data").iterdir() if path.is_dir()}
    assert models == {"events", "s3", "stepfunctions"}
    assert not [path for path in files if path.suffix == ".pyi"]


@pytest.mark.parametrize("handler", HANDLERS)
def test_a_package_is_compiled_for_its_python(built: Path, handler: str) -> None:
    package = package_of(built, handler)
    tag = f"cpython-{RUNTIME.removeprefix('python').replace('.', '')}"
    expected = {
        path.parent / "__pycache__" / f"{path.stem}.{tag}.pyc" for path in package.rglob("*.py")
    }
    assert set(package.rglob("*.pyc")) == expected
    magic = python("import importlib.util as u; print(u.MAGIC_NUMBER.hex())", package).strip()
    # PEP 552: validated by hash instead of time, and not checked against the source.
    unchecked = (0b01).to_bytes(4, "little")
    assert {path.read_bytes()[:8] for path in expected} == {bytes.fromhex(magic) + unchecked}


def add_schemas(folder: Path, **schemas: str) -> subprocess.CompletedProcess[str]:
    """Add schemas to a package that contains only the validator, as ``sam build`` does."""
    if runtime_bin() is None:
        pytest.skip(f"sam build needs {RUNTIME}, which is not on the path")
    code, package = folder / "code", folder / "package"
    shutil.copytree(FUNCTIONS, code, ignore=shutil.ignore_patterns("__pycache__"))
    (code / "schemas").mkdir()
    for name, text in schemas.items():
        (code / "schemas" / f"{name}.json").write_text(text)
    (package / "jsonschema_rs").mkdir(parents=True)
    script = f"from packing import pack; pack.add_schemas(pack.Path({str(package)!r}))"
    return subprocess.run(
        [Path(runtime_bin() or "") / RUNTIME, "-c", script],
        cwd=code,
        capture_output=True,
        text=True,
        check=False,
    )


def test_schemas_that_compile_are_in_the_package(tmp_path: Path) -> None:
    done = add_schemas(tmp_path, orders='{"type": "object"}', tree='{"items": {"$ref": "#"}}')
    assert done.returncode == 0, done.stderr
    found = {path.name for path in (tmp_path / "package" / "schemas").iterdir()}
    assert found == {"orders.json", "tree.json"}
    assert (tmp_path / "package" / "jsonschema_rs").exists()


def test_no_package_is_made_with_a_schema_that_does_not(tmp_path: Path) -> None:
    done = add_schemas(tmp_path, fine="{}", wrong='{"properties": {"id": {"type": "strng"}}}')
    assert done.returncode == 1
    assert "schema fine.json: compiles" in done.stderr
    assert "schema wrong.json: at /properties/id/type: " in done.stderr
    assert not (tmp_path / "package" / "schemas").exists()


def test_a_package_without_schemas_has_nothing_to_validate_with(tmp_path: Path) -> None:
    done = add_schemas(tmp_path)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "package").iterdir()) == []


def test_a_package_is_for_its_architecture(built: Path) -> None:
    libraries = list(built.rglob("*.so"))
    assert {"_obstore.abi3.so"} < {path.name for path in libraries}
    machines = {int.from_bytes(path.read_bytes()[18:20], "little") for path in libraries}
    assert machines == {MACHINES[built.name]}


def test_the_built_template_leads_to_the_packages(built: Path) -> None:
    template = (built / "template.yaml").read_text()
    for handler in HANDLERS:
        assert f"CodeUri: {package_of(built, handler).name}\n" in template


@pytest.mark.parametrize("handler", HANDLERS)
def test_starting_a_handler_compiles_nothing(built_here: Path, handler: str) -> None:
    assert started(built_here, handler)["compiled"] == []


def test_a_batch_starts_without_what_it_does_not_use(built_here: Path) -> None:
    batches, finish = started(built_here, "batches"), started(built_here, "finish")

    def models(seen: dict[str, list[str]]) -> set[str]:
        return set(re.findall(r"data/(\w+)/[\d-]+/service-2", " ".join(seen["opened"])))

    # Finish imports it, so the names that batches must not import are right.
    assert "uploads.merging.merged_store" in finish["modules"]
    assert models(finish) == {"s3"}
    assert "uploads.merging.merged_store" not in batches["modules"]
    packages = {name.partition(".")[0] for name in batches["modules"]}
    assert not packages & {"asyncio", "boto3", "multiprocessing", "urllib3"}
    assert not packages & {"jsonschema_rs", "s3transfer"}
    # Powertools imports botocore itself, which is small.
    assert not [name for name in batches["modules"] if name.startswith("botocore.")]
    assert not {"uploads.schemas", "uploads.decode.records"} & set(batches["modules"])
    assert len(batches["modules"]) <= MOST_MODULES
