"""The bundle of the page. `python -m noetl.infra.ui` checks the sources and makes it. It needs Node.js."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from noetl.infra.npm_packages import ROOT, install_packages

UI = ROOT / "api" / "ui"
BUNDLE = UI / "bundle"


def main() -> None:
    try:
        make_bundle(BUNDLE)
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        sys.exit(f"{getattr(error, 'output', '')}{error}")
    for path in sorted(BUNDLE.iterdir()):
        print(f"{path.stat().st_size:>8,} {path.relative_to(ROOT)}")


def make_bundle(target: Path) -> None:
    """Check the types of the page, and write its bundle into a folder, which it replaces.

    Raises:
        subprocess.CalledProcessError: the sources have a mistake, which is in `output`.
        FileNotFoundError: Node.js is not installed.
    """
    packages = install_packages(UI)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for part in ("source", "fonts"):
            shutil.copytree(UI / part, folder / part)
        for file in ("build.mjs", "tsconfig.json"):
            shutil.copy(UI / file, folder)
        (folder / "node_modules").symlink_to(packages / "node_modules")
        for command in (["node_modules/.bin/tsc", "--noEmit"], ["node", "build.mjs", "bundle"]):
            subprocess.run(
                command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True
            )
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(folder / "bundle", target)


if __name__ == "__main__":
    main()
