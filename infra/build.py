"""Build the package of a Lambda function, for any version of Python and any processor, on any machine.

    python3 infra/build.py step FOLDER [--python 3.13] [--architecture arm64]

`sam build` calls it through `infra/Makefile`. The folder holds what the function imports and what that needs, and nothing
else: boto3 is in the runtime. Standard library only; where this Python has no pip, one with pip is made in `.venv`.
"""

from __future__ import annotations

import argparse
import compileall
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from py_compile import PycInvalidationMode
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PLATFORMS = {"arm64": "aarch64", "x86_64": "x86_64"}
NOT_NEEDED = ("bin", "**/__pycache__", "**/tests", "**/*.pyi", "**/*.dist-info/RECORD", "**/*.c", "**/*.pxd")
MEGABYTE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Package:
    """What a function needs: packages of ours, without some parts of them, and distributions by the names under which
    `pyproject.toml` has them. Zipped it has at most so many bytes.
    """

    ours: tuple[str, ...]
    without: tuple[str, ...]
    needs: tuple[str, ...]
    most_bytes: int


PACKAGES = {
    "step": Package(
        ("planner", "executor"),
        ("planner/checks", "planner/draw", "planner/diagnostics/explanations"),
        ("httpx", "jinja2", "psycopg", "regex"),
        8 * MEGABYTE,
    ),
    "api": Package(
        ("planner", "executor", "api"),
        ("api/cli",),
        ("fastapi", "jinja2", "mangum", "networkx", "psycopg", "pydantic", "pyjwt", "pyyaml", "regex"),
        24 * MEGABYTE,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the package of a Lambda function.")
    parser.add_argument("package", choices=PACKAGES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="3.13", help="the version of the function's runtime")
    parser.add_argument("--architecture", choices=PLATFORMS, default="arm64")
    given = parser.parse_args()
    if importlib.util.find_spec("pip") is None:
        _with_pip()
    size, unzipped = build(given.package, given.folder, python=given.python, architecture=given.architecture)
    most = PACKAGES[given.package].most_bytes
    print(
        f"{given.package}: {size / MEGABYTE:.1f} MB zipped, {unzipped / MEGABYTE:.1f} MB unzipped, for {given.architecture}"
    )
    if size > most:
        sys.exit(f"The package {given.package} may have {most / MEGABYTE:.0f} MB zipped.")


def build(package: str, folder: Path, *, python: str, architecture: str) -> tuple[int, int]:
    """Fill the folder with the package; how many bytes it has zipped and unzipped."""
    made = PACKAGES[package]
    folder.mkdir(parents=True, exist_ok=True)
    _install([requirement(name) for name in made.needs], folder, python, PLATFORMS[architecture])
    for pattern in NOT_NEEDED:
        for path in sorted(folder.glob(pattern), reverse=True):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    is_same = python == f"{sys.version_info.major}.{sys.version_info.minor}"
    if is_same:
        _compile(folder, instead=True)
    for name, target in (
        ("noetl", folder / "noetl"),
        *((name, folder / "noetl" / name) for name in made.ours),
    ):
        shutil.copytree(ROOT / name, target, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    for part in made.without:
        shutil.rmtree(folder / "noetl" / part)
    _describe(folder)
    if is_same:
        _compile(folder / "noetl")
    else:
        print(
            f"This is not Python {python}, so the function compiles its modules whenever it starts.",
            file=sys.stderr,
        )
    return sizes(folder)


def sizes(folder: Path) -> tuple[int, int]:
    """How many bytes the files of a folder have zipped, and unzipped."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    with tempfile.TemporaryFile() as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in files:
                archive.write(path, path.relative_to(folder))
        return file.tell(), sum(path.stat().st_size for path in files)


def requirement(name: str) -> str:
    """The distribution with the extras and the versions that `pyproject.toml` asks for."""
    project = _project()
    extras = project["optional-dependencies"]
    for found in [*project["dependencies"], *(one for extra in extras for one in extras[extra])]:
        if re.split(r"[\[<>=!~ ;]", found, maxsplit=1)[0].lower() == name:
            return str(found)
    raise LookupError(f"pyproject.toml does not name {name}")


def _install(requirements: list[str], folder: Path, python: str, machine: str) -> None:
    options = ["--quiet", "--disable-pip-version-check", "--no-compile", "--upgrade", "--target", str(folder)]
    # The wheels of the oldest system that the runtime's is compatible with are found first.
    platforms = [word for year in ("2014", "_2_28") for word in ("--platform", f"manylinux{year}_{machine}")]
    target = [*platforms, "--implementation", "cp", "--python-version", python, "--only-binary", ":all:"]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, *target, *requirements], check=True)


def _compile(folder: Path, *, instead: bool = False) -> None:
    """Compile the modules of a folder, which cannot be written to in Lambda, beside or `instead` of their sources."""
    mode = PycInvalidationMode.UNCHECKED_HASH
    # Tracebacks name files as they are called in the package, wherever it was built.
    strip = str(folder if instead else folder.parent)
    if not compileall.compile_dir(
        folder, quiet=2, legacy=instead, invalidation_mode=mode, force=True, stripdir=strip
    ):
        sys.exit(f"What is in {folder} cannot be compiled.")
    for source in folder.rglob("*.py") if instead else ():
        source.unlink()


def _describe(folder: Path) -> None:
    """Say of which version our packages are, as those do that pip installs."""
    project = _project()
    described = folder / f"{project['name']}-{project['version']}.dist-info"
    described.mkdir(exist_ok=True)
    lines = ("Metadata-Version: 2.1", f"Name: {project['name']}", f"Version: {project['version']}", "")
    (described / "METADATA").write_text("\n".join(lines))


def _project() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return project


def _with_pip() -> None:
    """Go on in an environment that has pip, instead of here."""
    python = ROOT / ".venv" / "bin" / "python"
    subprocess.run([sys.executable, ROOT / "infra" / "environment.py", ROOT / ".venv"], check=True)
    sys.exit(subprocess.run([python, *sys.argv], check=False).returncode)


if __name__ == "__main__":
    main()
