"""What a cold start imports. ``make lint`` checks the layers (pyproject.toml)."""

import subprocess
import sys
from pathlib import Path

FUNCTIONS = Path(__file__).parents[2] / "functions"

LOADED = """
import sys
sys.path.insert(0, sys.argv[1])
for module in sys.argv[2:]:
    __import__(module)
print("\\n".join(sys.modules))
"""


def loaded(*modules: str) -> set[str]:
    """``sys.modules`` of a fresh interpreter after importing ``modules``."""
    command = [sys.executable, "-c", LOADED, str(FUNCTIONS), *modules]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    return set(done.stdout.split())


def test_receiving_batches_does_not_load_the_merge() -> None:
    """It would slow the cold start of the busiest function."""
    found = loaded("uploads.receiving", "uploads.http", "uploads.wiring")
    assert {"uploads.batch_store", "uploads.session_store"} <= found
    assert not {name for name in found if name.startswith("uploads.merging")}
    assert not {"uploads.lifecycle", "uploads.reports"} & found
    # Powertools imports botocore itself, which is small.
    assert not {name for name in found if name.startswith(("boto3", "botocore.", "urllib3"))}


def test_imports_leave_garbage_collection_enabled() -> None:
    """Handlers delay it during their start, in a module for that purpose."""
    modules = sorted(
        ".".join(path.relative_to(FUNCTIONS).with_suffix("").parts)
        for path in (FUNCTIONS / "uploads").rglob("*.py")
        if path.stem not in {"__init__", "startup"}
    )
    assert "uploads.http" in modules
    check = "import gc, sys; sys.path.insert(0, sys.argv[1])\n"
    check += "".join(f"import {module}\n" for module in modules) + "print(gc.isenabled())"
    command = [sys.executable, "-c", check, str(FUNCTIONS)]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    assert done.stdout == "True\n"


def test_the_titles_of_errors_survive_optimisation() -> None:
    """Without docstrings, under ``python -OO``."""
    check = "import sys; sys.path.insert(0, sys.argv[1])\nfrom uploads import errors\n"
    check += "print(errors.EmptyBodyError('').problem()['title'])"
    command = [sys.executable, "-OO", "-c", check, str(FUNCTIONS)]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    assert done.stdout == "The request has no body.\n"
