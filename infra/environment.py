"""Make a virtual environment with pip in it, on any Python that can run this file.

Some systems ship Python without `ensurepip` (Debian, unless python3-venv is installed). There pip comes from the package
index, as a wheel that is checked against the index's own hash. Standard library only.

    python3 infra/environment.py .venv
"""

from __future__ import annotations

import hashlib
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


def main(folder: str) -> None:
    """Make the environment at `folder`, or leave the one that is there and works."""
    if sys.version_info < MINIMUM:
        sys.exit(
            f"noetl needs Python {MINIMUM[0]}.{MINIMUM[1]} or newer, and this is {sys.version.split()[0]}."
        )
    python = Path(folder, "bin", "python")
    if python.exists() and _has_pip(python):
        return
    try:
        import ensurepip  # noqa: F401 - only whether it is there
    except ImportError:
        venv.create(folder, clear=True, with_pip=False)
        _install_pip(python)
    else:
        venv.create(folder, clear=True, with_pip=True)


def _has_pip(python: Path) -> bool:
    return (
        subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0
    )


def _install_pip(python: Path) -> None:
    wheel = _wheel()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, wheel["filename"])
        with urllib.request.urlopen(wheel["url"]) as answer:
            content = answer.read()
        if hashlib.sha256(content).hexdigest() != wheel["sha256"]:
            sys.exit(f"{wheel['filename']} is not what the package index says it is.")
        path.write_bytes(content)
        subprocess.run([python, f"{path}/pip", "install", "--quiet", "--no-index", path], check=True)


def _wheel() -> dict[str, str]:
    """The newest wheel of pip on the index, as the Simple Repository API (PEP 691) lists it."""
    address = f"{os.environ.get('PIP_INDEX_URL', INDEX).rstrip('/')}/pip/"
    request = urllib.request.Request(address, headers={"Accept": "application/vnd.pypi.simple.v1+json"})
    with urllib.request.urlopen(request) as answer:
        files = json.load(answer)["files"]
    wheels = [
        f
        for f in files
        if re.fullmatch(r"pip-[0-9.]+-py3-none-any\.whl", f["filename"]) and not f.get("yanked")
    ]
    newest = max(wheels, key=lambda f: [int(part) for part in f["filename"].split("-")[1].split(".")])
    return {
        "filename": newest["filename"],
        "url": urljoin(address, newest["url"]),
        "sha256": newest["hashes"]["sha256"],
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
