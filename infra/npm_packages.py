"""Packages of npm in a folder of `build`, which is made once for each `package-lock.json`."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def install_packages(source: Path) -> Path:
    """Return a folder that has the `node_modules` for the lock file in `source`.

    Raises:
        subprocess.CalledProcessError: npm has failed; its `output` says why.
        FileNotFoundError: npm is not installed.
    """
    lock = (source / "package-lock.json").read_bytes()
    folder = ROOT / "build" / f"npm-{hashlib.sha256(lock).hexdigest()[:8]}"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if not (folder / ".made").exists():
            for name in ("package.json", "package-lock.json"):
                shutil.copy(source / name, folder)
            command = ("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
            subprocess.run(
                command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True
            )
            (folder / ".made").touch()
    return folder
