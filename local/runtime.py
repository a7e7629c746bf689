"""The functions' own Python, which ``sam build`` needs on the PATH."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Final

RUNTIME: Final = "python3.13"


def runtime_bin() -> str | None:
    """The folder of the functions' Python: on the PATH, or one of pyenv's versions."""
    if found := shutil.which(RUNTIME):
        # What pyenv puts on the PATH may stand for a version that is not enabled.
        works = subprocess.run([found, "--version"], capture_output=True, check=False)  # noqa: S603
        if works.returncode == 0:
            return str(Path(found).parent)
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    versions = sorted(pyenv.glob(f"{RUNTIME.removeprefix('python')}.*/bin/{RUNTIME}"))
    return str(versions[-1].parent) if versions else None
