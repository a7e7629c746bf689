"""Finds the Python version of the functions, which ``sam build`` needs on the PATH."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

RUNTIME: Final = "python3.13"


def runtime_bin() -> str | None:
    """Return the folder of the functions' Python: on the PATH, or among pyenv's versions."""
    if found := shutil.which(RUNTIME):
        # A shim of pyenv on the PATH may stand for a version that is not enabled.
        works = subprocess.run([found, "--version"], capture_output=True, check=False)  # noqa: S603
        if works.returncode == 0:
            return str(Path(found).parent)
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    versions = sorted(pyenv.glob(f"{RUNTIME.removeprefix('python')}.*/bin/{RUNTIME}"))
    return str(versions[-1].parent) if versions else None
