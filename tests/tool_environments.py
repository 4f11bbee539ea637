"""Virtual environments for tools that tests need and that pin packages of other versions.

Each environment is created once, from the package index.
"""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
from pathlib import Path

from noetl.infra.environment import create_environment

ROOT = Path(__file__).resolve().parent.parent


def tool_environment(*requirements: str) -> Path:
    """Return the folder of an environment with these packages. Create it if it does not exist."""
    folder = environment_folder(*requirements)
    made = folder / ".made"
    folder.parent.mkdir(exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            create_environment(str(folder))
            pip = [
                str(folder / "bin" / "python"),
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
            ]
            subprocess.run([*pip, *requirements], check=True)
            made.touch()
    return folder


def environment_folder(*requirements: str) -> Path:
    """Return the path of the environment with these packages. Its name contains the first one."""
    digest = hashlib.sha256("\n".join(requirements).encode()).hexdigest()[:8]
    return ROOT / ".venv" / f"{requirements[0].replace('==', '-')}-{digest}"
