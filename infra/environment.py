"""Create a virtual environment with pip, also where Python lacks `ensurepip`.

    python3 infra/environment.py .venv

Debian ships Python without `ensurepip`, unless python3-venv is installed. Then pip is downloaded as a wheel
from the package index, and checked against the hash of the index. This script uses only the standard
library.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import urllib.request
import venv
from pathlib import Path
from urllib.parse import urljoin

MINIMUM = (3, 11)
INDEX = "https://pypi.org/simple"


def create_environment(folder: str) -> None:
    """Create the environment at `folder`, unless a usable one exists."""
    if sys.version_info < MINIMUM:
        required = ".".join(map(str, MINIMUM))
        sys.exit(f"noetl needs Python {required} or newer, but this is {sys.version.split()[0]}.")
    python = Path(folder, "bin", "python")
    if python.exists() and _has_pip(python):
        return
    if importlib.util.find_spec("ensurepip") is None:
        venv.create(folder, clear=True, with_pip=False)
        _install_pip(python)
    else:
        venv.create(folder, clear=True, with_pip=True)


def _has_pip(python: Path) -> bool:
    command = [str(python), "-m", "pip", "--version"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _install_pip(python: Path) -> None:
    wheel = _find_pip_wheel()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, wheel["filename"])
        with urllib.request.urlopen(wheel["url"]) as response:
            content = response.read()
        if hashlib.sha256(content).hexdigest() != wheel["sha256"]:
            sys.exit(f"{wheel['filename']} does not have the hash that the package index gives.")
        path.write_bytes(content)
        subprocess.run([python, f"{path}/pip", "install", "--quiet", "--no-index", path], check=True)


def _find_pip_wheel() -> dict[str, str]:
    """Return the newest wheel of pip in the package index (Simple Repository API, PEP 691)."""
    page = f"{os.environ.get('PIP_INDEX_URL', INDEX).rstrip('/')}/pip/"
    request = urllib.request.Request(page, headers={"Accept": "application/vnd.pypi.simple.v1+json"})
    with urllib.request.urlopen(request) as response:
        files = json.load(response)["files"]
    wheels = [
        file
        for file in files
        if re.fullmatch(r"pip-[0-9.]+-py3-none-any\.whl", file["filename"]) and not file.get("yanked")
    ]
    newest = max(wheels, key=lambda file: [int(part) for part in file["filename"].split("-")[1].split(".")])
    return {
        "filename": newest["filename"],
        "url": urljoin(page, newest["url"]),
        "sha256": newest["hashes"]["sha256"],
    }


if __name__ == "__main__":
    create_environment(*sys.argv[1:])
