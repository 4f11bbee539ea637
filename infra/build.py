"""Build the package of a Lambda function, for any version of Python and any processor, on any machine.

    python3 infra/build.py step FOLDER [--python 3.13] [--architecture arm64]

`sam build` calls it through `infra/Makefile`. Without `--architecture` it builds for the processor that the
parameters in `samconfig.toml` give to the functions. The folder then contains the modules of the function and
their requirements, but not boto3, which is in the runtime. Versions and hashes of the requirements are those
of `requirements/step.txt` and `requirements/api.txt`. This script uses only the standard library. If its
Python has no pip, it creates an environment with pip in `.venv`.

    python3 infra/build.py step --requirements

writes the requirements of a package with the ranges of `pyproject.toml`. `make lock` reads them.
"""

from __future__ import annotations

import argparse
import compileall
import importlib.util
import itertools
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
UNUSED_FILES = (
    "**/__pycache__",
    "**/tests",
    "**/*.pyi",
    "**/*.dist-info/RECORD",
    "**/*.c",
    "**/*.pxd",
)
DEVELOPMENT_FILES = ("source", "*.mjs", "package*.json", "tsconfig.json")
"""Files of `api/ui` from which the bundle is made. No other package has files of these names."""

MEGABYTE = 1024 * 1024
SAM_CONFIGURATION = ROOT / "samconfig.toml"
DEFAULT_ARCHITECTURE = "arm64"


@dataclass(frozen=True, slots=True)
class FunctionPackage:
    """The content of a package: subpackages of `noetl`, and requirements by their names in `pyproject.toml`.

    `excluded` are paths below `noetl` that the function does not import. `programs` are the commands of
    requirements that it starts. `max_bytes` limits the zipped size.
    """

    packages: tuple[str, ...]
    excluded: tuple[str, ...]
    requirements: tuple[str, ...]
    max_bytes: int
    programs: tuple[str, ...] = ()


PACKAGES = {
    "step": FunctionPackage(
        ("planner", "executor"),
        (
            "testing",
            "planner/checks",
            "planner/dataflow",
            "planner/diagnostics/explanations",
            "planner/draw",
            "planner/editing",
            "planner/graph",
            "planner/guards",
            "planner/program",
            "planner/registration",
        ),
        ("ahocorasick-rs", "cronsim", "google-re2", "httpx", "jinja2", "psycopg", "tzdata"),
        11 * MEGABYTE,
    ),
    "api": FunctionPackage(
        ("planner", "executor", "api"),
        ("testing", "api/cli"),
        (
            "ahocorasick-rs",
            "cronsim",
            "fastapi",
            "google-re2",
            "graphviz-pure",
            "httpx",
            "jinja2",
            "mangum",
            "networkx",
            "prometheus-client",
            "psycopg",
            "pydantic",
            "pyjwt",
            "pyyaml",
            "tzdata",
        ),
        32 * MEGABYTE,
        programs=("graphviz-pure",),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the package of a Lambda function.")
    parser.add_argument("package", choices=PACKAGES)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("folder", type=Path, nargs="?")
    action.add_argument("--requirements", action="store_true", help="write the requirements, build nothing")
    parser.add_argument("--python", default="3.13", help="the version of the function's runtime")
    parser.add_argument("--architecture", choices=PLATFORMS)
    options = parser.parse_args()
    if options.requirements:
        print("\n".join(map(read_requirement, PACKAGES[options.package].requirements)))
        return
    if importlib.util.find_spec("pip") is None:
        _rerun_with_pip()
    name, architecture = options.package, options.architecture or read_architecture(SAM_CONFIGURATION)
    zipped, unzipped = build(name, options.folder, python=options.python, architecture=architecture)
    sizes = f"{zipped / MEGABYTE:.1f} MB zipped, {unzipped / MEGABYTE:.1f} MB unzipped"
    print(f"{name}: {sizes}, for {architecture}")
    limit = PACKAGES[name].max_bytes
    if zipped > limit:
        sys.exit(f"The package {name} exceeds its limit of {limit / MEGABYTE:.0f} MB zipped.")


def build(name: str, folder: Path, *, python: str, architecture: str) -> tuple[int, int]:
    """Build a package in `folder`. Return its zipped and its unzipped size in bytes."""
    package = PACKAGES[name]
    folder.mkdir(parents=True, exist_ok=True)
    _install(ROOT / "requirements" / f"{name}.txt", folder, python, PLATFORMS[architecture])
    for pattern in UNUSED_FILES:
        for path in sorted(folder.glob(pattern), reverse=True):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    programs = folder / "bin"
    for program in programs.glob("*"):
        if program.name not in package.programs:
            program.unlink()
    if programs.exists() and not package.programs:
        programs.rmdir()
    is_same_python = python == f"{sys.version_info.major}.{sys.version_info.minor}"
    if is_same_python:
        _compile(folder, removes_sources=True)
    _copy_package("noetl", folder / "noetl")
    for subpackage in package.packages:
        _copy_package(subpackage, folder / "noetl" / subpackage)
    for excluded in package.excluded:
        shutil.rmtree(folder / "noetl" / excluded)
    _write_metadata(folder)
    # `noetl.executor.runtime.preload` refuses to run it on another processor.
    (folder / "noetl" / "processor.txt").write_text(PLATFORMS[architecture])
    if is_same_python:
        _compile(folder / "noetl")
    else:
        message = f"This is not Python {python}, so the function compiles its modules at every cold start."
        print(message, file=sys.stderr)
    return measure(folder)


def _copy_package(name: str, target: Path) -> None:
    ignore = shutil.ignore_patterns("__pycache__", *DEVELOPMENT_FILES)
    shutil.copytree(ROOT / name, target, ignore=ignore, dirs_exist_ok=True)


def measure(folder: Path) -> tuple[int, int]:
    """Return the zipped and the unzipped size of the files in a folder, in bytes."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    with tempfile.TemporaryFile() as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in files:
                archive.write(path, path.relative_to(folder))
        return file.tell(), sum(path.stat().st_size for path in files)


def read_architecture(configuration: Path) -> str:
    """Return the parameter `Architecture` in a configuration of the SAM CLI, or its default.

    `sam deploy` takes its parameters from there, as a text or a list, unless they are given.
    """
    if not configuration.exists():
        return DEFAULT_ARCHITECTURE
    deployments = tomllib.loads(configuration.read_text("utf-8")).get("default", {})
    parameters = [
        deployments.get(command, {}).get("parameters", {}).get("parameter_overrides", "")
        for command in ("deploy", "global")
    ]
    found = re.search(rf"\bArchitecture=\W*({'|'.join(PLATFORMS)})\b", str(parameters))
    return found[1] if found else DEFAULT_ARCHITECTURE


def read_requirement(name: str) -> str:
    """Return a requirement of `pyproject.toml` with its extras and versions.

    Raises:
        LookupError: it is missing.
    """
    project = _read_project()
    optional = project["optional-dependencies"].values()
    for requirement in [*project["dependencies"], *itertools.chain.from_iterable(optional)]:
        if re.split(r"[\[<>=!~ ;]", requirement, maxsplit=1)[0].lower() == name:
            return str(requirement)
    raise LookupError(f"missing requirement {name} in pyproject.toml")


def _install(requirements: Path, folder: Path, python: str, machine: str) -> None:
    options = ["--quiet", "--disable-pip-version-check", "--no-compile", "--upgrade", "--target", str(folder)]
    # pip prefers the first platform: the oldest system that is compatible with the runtime.
    platforms = [word for year in ("2014", "_2_28") for word in ("--platform", f"manylinux{year}_{machine}")]
    target = [*platforms, "--implementation", "cp", "--python-version", python, "--only-binary", ":all:"]
    locked = ["--require-hashes", "--requirement", str(requirements)]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, *target, *locked], check=True)


def _compile(folder: Path, *, removes_sources: bool = False) -> None:
    """Compile the modules of a folder in advance, because Lambda cannot write to it."""
    # Tracebacks then show paths relative to the package, wherever it was built.
    prefix = str(folder if removes_sources else folder.parent)
    is_compiled = compileall.compile_dir(
        folder,
        quiet=2,
        legacy=removes_sources,
        invalidation_mode=PycInvalidationMode.UNCHECKED_HASH,
        force=True,
        stripdir=prefix,
    )
    if not is_compiled:
        sys.exit(f"The modules in {folder} cannot be compiled.")
    for source in folder.rglob("*.py") if removes_sources else ():
        source.unlink()


def _write_metadata(folder: Path) -> None:
    """Write the name and version of noetl in the format of installed distributions."""
    project = _read_project()
    info = folder / f"{project['name']}-{project['version']}.dist-info"
    info.mkdir(exist_ok=True)
    lines = ("Metadata-Version: 2.1", f"Name: {project['name']}", f"Version: {project['version']}", "")
    (info / "METADATA").write_text("\n".join(lines))


def _read_project() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return project


def _rerun_with_pip() -> None:
    """Run this script again in an environment that has pip, and exit."""
    python = ROOT / ".venv" / "bin" / "python"
    subprocess.run([sys.executable, ROOT / "infra" / "environment.py", ROOT / ".venv"], check=True)
    sys.exit(subprocess.run([python, *sys.argv], check=False).returncode)


if __name__ == "__main__":
    main()
