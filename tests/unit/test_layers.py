"""Who may import whom: the layers of the functions, read from their source."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

FUNCTIONS = Path(__file__).parents[2] / "functions"
UPLOADS = FUNCTIONS / "uploads"
MODULES = sorted(path.stem for path in UPLOADS.glob("*.py"))
HANDLERS = sorted(path.stem for path in FUNCTIONS.glob("*.py"))

PURE = ["errors", "gaps", "limits", "malformed", "plan", "records", "session"]
AWS = {"aiobotocore", "boto3", "botocore", "obstore", "s3transfer"}
CATCH_CLIENT_ERRORS = {"merged_store", "session_store"}


def tree(module: str) -> ast.Module:
    folder = FUNCTIONS if module in HANDLERS else UPLOADS
    return ast.parse((folder / f"{module}.py").read_text(encoding="utf-8"))


def imports(module: str) -> Iterator[str]:
    """The full name of everything a module imports, wherever in it, also for types only."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ["uploads"] if node.level else []
            source = ".".join([*base, node.module or ""]).strip(".")
            yield from (f"{source}.{alias.name}" for alias in node.names)


def names(module: str) -> set[str]:
    """Every name and attribute that a module mentions."""
    found = {name.rpartition(".")[2] for name in imports(module)}
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
    return found


def packages(module: str) -> set[str]:
    return {name.partition(".")[0] for name in imports(module)}


def test_this_file_knows_the_code() -> None:
    assert HANDLERS == ["batches", "finish", "merge", "sessions"]
    assert set(PURE) | CATCH_CLIENT_ERRORS <= set(MODULES)


def test_imports_are_found() -> None:
    """The checks below would pass if nothing were found."""
    assert "botocore.exceptions.ClientError" in set(imports("session_store"))
    assert "botocore" in packages("wiring")
    assert "obstore" in packages("batch_store")


@pytest.mark.parametrize("module", MODULES)
def test_the_domain_imports_no_handler(module: str) -> None:
    assert not packages(module) & set(HANDLERS)
    assert not {f"uploads.{handler}" for handler in HANDLERS} & set(imports(module))


@pytest.mark.parametrize("module", PURE)
def test_pure_modules_know_no_aws(module: str) -> None:
    assert not packages(module) & AWS
    assert not {name for name in packages(module) if name.startswith("types_")}


@pytest.mark.parametrize("module", PURE)
def test_pure_modules_import_only_pure_modules(module: str) -> None:
    ours = {name.split(".")[1] for name in imports(module) if name.startswith("uploads.")}
    assert ours <= set(PURE)


@pytest.mark.parametrize("module", PURE)
def test_pure_modules_have_no_clock(module: str) -> None:
    assert not packages(module) & {"datetime", "random", "secrets", "time", "uuid"}


@pytest.mark.parametrize("module", MODULES)
def test_the_environment_is_read_by_no_module(module: str) -> None:
    """The handlers pass it to ``Config.from_env``."""
    assert not names(module) & {"environb", "getenv", "getenvb", "putenv"}
    assert "os" not in packages(module)


@pytest.mark.parametrize("handler", HANDLERS)
def test_a_handler_passes_the_environment_on_and_does_nothing_else_with_it(handler: str) -> None:
    read = [
        ast.unparse(node)
        for node in ast.walk(tree(handler))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "os"
    ]
    passed = [
        ast.unparse(call.args[0])
        for call in ast.walk(tree(handler))
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "Config.from_env"
    ]
    assert read == passed == ["os.environ"]
    assert "os" in set(imports(handler))


def raises_again(handler: ast.ExceptHandler) -> bool:
    """Whether what is caught always goes on to the caller as it was."""
    last = handler.body[-1]
    return (
        isinstance(last, ast.Raise)
        and last.exc is None
        and not any(isinstance(node, ast.Return) for node in ast.walk(handler))
    )


@pytest.mark.parametrize("handler", HANDLERS)
def test_a_handler_knows_no_aws_and_catches_not_everything(handler: str) -> None:
    assert not packages(handler) & AWS
    caught = [
        ast.unparse(node.type) if node.type else "everything"
        for node in ast.walk(tree(handler))
        if isinstance(node, ast.ExceptHandler) and not raises_again(node)
    ]
    assert not {"everything", "BaseException", "Exception"} & set(caught)


@pytest.mark.parametrize("module", MODULES)
def test_client_errors_are_caught_by_the_stores_alone(module: str) -> None:
    assert ("ClientError" in names(module)) == (module in CATCH_CLIENT_ERRORS)


@pytest.mark.parametrize("module", [module for module in MODULES if module != "wiring"])
def test_clients_are_built_by_wiring_alone(module: str) -> None:
    assert "boto3" not in set(imports(module))
    assert "S3Store" not in {
        node.func.id
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }


LOADED = """
import sys
sys.path.insert(0, sys.argv[1])
for module in sys.argv[2:]:
    __import__(module)
print("\\n".join(sys.modules))
"""


def loaded(*modules: str) -> set[str]:
    """What is in ``sys.modules`` of a fresh interpreter after importing ``modules``."""
    command = [sys.executable, "-c", LOADED, str(FUNCTIONS), *modules]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    return set(done.stdout.split())


def test_receiving_batches_does_not_load_the_merge() -> None:
    """It would make the cold start of the busiest function slower."""
    found = loaded("uploads.protocol", "uploads.http", "uploads.wiring", "uploads.records")
    assert {"uploads.batch_store", "uploads.session_store"} <= found
    assert not found & {
        "uploads.merged_store",
        "uploads.finishing",
        "uploads.long_merge",
        "uploads.merge_plan",
        "uploads.state_machine",
    }


def test_a_task_of_a_long_merge_collects_garbage() -> None:
    """A start of the API's functions puts that off until they are there; a task has no such end."""
    assert "uploads.http" not in loaded("uploads.long_merge", "uploads.wiring", "uploads.config")
    assert "uploads.http" not in {
        f"{node.module}" for node in tree("merge").body if isinstance(node, ast.ImportFrom)
    }


def test_pure_modules_load_no_aws() -> None:
    found = loaded(*(f"uploads.{module}" for module in PURE))
    assert "uploads.records" in found
    assert not {name.partition(".")[0] for name in found} & AWS
