"""Virtual environments for tools that tests need and that pin packages of other versions.

Each environment is created once, from the package index.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
UV = Path(sys.executable).parent / "uv"


def tool_environment(*requirements: str) -> Path:
    """Return the folder of an environment with these packages. Create it if it does not exist."""
    folder = environment_folder(*requirements)
    made = folder / ".made"
    folder.parent.mkdir(exist_ok=True)
    with (folder.parent / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            run_uv("venv", "--clear", "--python", sys.executable, str(folder))
            run_uv("pip", "install", "--python", str(folder / "bin" / "python"), *requirements)
            made.touch()
    return folder


def run_uv(*arguments: str) -> None:
    """Run uv, which trusts the certificates of the system, as pip does."""
    environ = {"UV_NATIVE_TLS": "1", **os.environ}
    subprocess.run([UV, *arguments, "--quiet"], check=True, env=environ)


def environment_folder(*requirements: str) -> Path:
    """Return the path of the environment with these packages. Its name contains the first one."""
    digest = hashlib.sha256("\n".join(requirements).encode()).hexdigest()[:8]
    return ROOT / ".venv" / f"{requirements[0].replace('==', '-')}-{digest}"
