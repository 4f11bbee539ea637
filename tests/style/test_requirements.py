"""The locked versions agree with pyproject.toml. No package index is asked.

`requirements/dev.txt` holds the versions that developers and CI install, and `requirements/lowest.txt` the
lowest ones that pyproject.toml allows. `step.txt` and `api.txt` hold those of the functions of AWS.
"""

from __future__ import annotations

import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import nox
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from noetl.infra.build import PACKAGES, read_requirement

ROOT = Path(__file__).resolve().parents[2]
PYTHONS = nox.project.python_versions(nox.project.load_toml(ROOT / "pyproject.toml"), max_version="3.14")
LOWEST = PYTHONS[0]
EXTRA = "dev"
DIRECT = "noetl (pyproject.toml)"
FIX = "run `make lock`"


class LockedPackage(NamedTuple):
    """A package of a lock: its version, where it applies, and the packages that require it."""

    requirement: Requirement
    required_by: tuple[str, ...]
    has_hash: bool

    @property
    def name(self) -> str:
        return canonicalize_name(self.requirement.name)

    @property
    def version(self) -> Version:
        (specifier,) = self.requirement.specifier
        return Version(specifier.version)

    def applies_to(self, python: str) -> bool:
        """Return whether the package is installed on a version of Python on Linux."""
        environment = {
            "python_version": python,
            "python_full_version": f"{python}.0",
            "sys_platform": "linux",
            "implementation_name": "cpython",
            "platform_python_implementation": "CPython",
        }
        marker = self.requirement.marker
        return marker is None or marker.evaluate(environment)


def read_lock(text: str) -> list[LockedPackage]:
    """Return the packages of a requirements file of `uv pip compile`."""
    entries = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]
    return [
        LockedPackage(
            Requirement(entry.splitlines()[0].removesuffix("\\")),
            tuple(re.findall(r"^ +#(?: via)? +(\S.*)$", entry, flags=re.MULTILINE)),
            "--hash=sha256:" in entry,
        )
        for entry in entries
    ]


def read_requirements(pyproject: str) -> list[Requirement]:
    """Return the requirements of the project and its extra EXTRA, with those of the extras in it."""
    project = tomllib.loads(pyproject)["project"]
    found = [Requirement(text) for text in project["dependencies"]]
    extras = [EXTRA]
    for extra in extras:
        for text in project["optional-dependencies"][extra]:
            requirement = Requirement(text)
            if canonicalize_name(requirement.name) == project["name"]:
                extras += sorted(requirement.extras - {*extras})
            else:
                found.append(requirement)
    return found


def find_disagreements(
    requirements: list[Requirement], lock: list[LockedPackage], python: str
) -> Iterator[str]:
    """Yield each requirement that the lock does not meet, and each locked package that nothing requires."""
    locked = {package.name: package for package in lock if package.applies_to(python)}
    for requirement in requirements:
        package = locked.get(canonicalize_name(requirement.name))
        if package is None:
            yield f"`{requirement}` is not locked for Python {python}"
        elif package.version not in requirement.specifier:
            yield f"`{requirement}` is locked at {package.version}"
    direct = {canonicalize_name(requirement.name) for requirement in requirements}
    for package in locked.values():
        if DIRECT in package.required_by and package.name not in direct:
            yield f"`{package.name}` is locked, but pyproject.toml does not require it"


def find_untested_bounds(requirements: list[Requirement], lock: list[LockedPackage]) -> Iterator[str]:
    """Yield each lower bound that is not the lowest version that the other requirements allow."""
    locked = {package.name: package.version for package in lock if package.applies_to(LOWEST)}
    for requirement in requirements:
        version = locked[canonicalize_name(requirement.name)]
        bounds = [part.version for part in requirement.specifier if part.operator in {">=", "==", "~="}]
        if not any(
            version.release[: len(Version(bound).release)] == Version(bound).release for bound in bounds
        ):
            yield f"`{requirement}`: the lowest version that can be installed is {version}"


@pytest.fixture(scope="module")
def requirements() -> list[Requirement]:
    return read_requirements((ROOT / "pyproject.toml").read_text("utf-8"))


def lock_file(name: str) -> list[LockedPackage]:
    return read_lock((ROOT / "requirements" / f"{name}.txt").read_text("utf-8"))


@pytest.mark.parametrize("python", PYTHONS)
def test_the_locked_versions_meet_the_requirements(requirements: list[Requirement], python: str) -> None:
    assert list(find_disagreements(requirements, lock_file("dev"), python)) == [], FIX


def test_the_lowest_versions_meet_the_requirements(requirements: list[Requirement]) -> None:
    assert list(find_disagreements(requirements, lock_file("lowest"), LOWEST)) == [], FIX


def test_every_lower_bound_is_tested(requirements: list[Requirement]) -> None:
    untested = list(find_untested_bounds(requirements, lock_file("lowest")))
    assert untested == [], f"raise the bounds in pyproject.toml, and {FIX}"


def lock_names() -> list[str]:
    return sorted(path.stem for path in (ROOT / "requirements").glob("*.txt"))


@pytest.mark.parametrize("name", lock_names())
def test_every_locked_version_has_a_hash(name: str) -> None:
    lock = lock_file(name)
    assert len(lock) > 10
    assert [package.name for package in lock if not package.has_hash] == []


@pytest.mark.parametrize("name", PACKAGES)
def test_a_function_of_aws_gets_the_tested_versions(name: str) -> None:
    """The lock of a function has its requirements, in the versions of `dev`."""
    lock, tested = lock_file(name), defaultdict[str, set[Version]](set)
    for package in lock_file("dev"):
        tested[package.name].add(package.version)
    required = [Requirement(read_requirement(requirement)) for requirement in PACKAGES[name].requirements]
    assert {canonicalize_name(requirement.name) for requirement in required} <= {p.name for p in lock}
    assert [package.name for package in lock if package.version not in tested[package.name]] == []


def test_every_requirement_of_users_has_an_upper_bound() -> None:
    """A new major version of a library may break an installation without any change here."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    texts = [
        *project["dependencies"],
        *(text for extra in sorted({*extras} - {"dev"}) for text in extras[extra]),
    ]
    requirements = [Requirement(text) for text in texts if not text.startswith("noetl[")]
    assert len(requirements) > 10
    unbounded = [
        str(requirement)
        for requirement in requirements
        if not {part.operator for part in requirement.specifier} & {"<", "<=", "==", "~="}
    ]
    assert unbounded == []


PYPROJECT = """
[project]
name = "noetl"
dependencies = ["httpx>=0.28,<1", "regex>=2024.11.6"]
[project.optional-dependencies]
fast = ["orjson>=3.10"]
dev = ["noetl[fast]"]
"""
LOCK = """
httpx==0.28.1 \\
    --hash=sha256:0f
    # via noetl (pyproject.toml)
orjson==3.10.2 ; python_full_version < '3.13' \\
    --hash=sha256:0f
    # via
    #   noetl (pyproject.toml)
    #   rapid
regex==2024.11.6
    # via noetl (pyproject.toml)
"""


@pytest.mark.parametrize(
    ("change", "python", "expected"),
    [
        (("", ""), "3.12", []),
        (("", ""), "3.13", ["`orjson>=3.10` is not locked for Python 3.13"]),
        (("httpx==0.28.1", "httpx==0.27.2"), "3.12", ["`httpx<1,>=0.28` is locked at 0.27.2"]),
        (
            ("regex==2024.11.6\n", "regex==2024.11.6\n    # via noetl (pyproject.toml)\nrich==15.0\n"),
            "3.12",
            ["`rich` is locked, but pyproject.toml does not require it"],
        ),
    ],
)
def test_a_disagreement_is_reported(change: tuple[str, str], python: str, expected: list[str]) -> None:
    lock = read_lock(LOCK.replace(*change))
    assert list(find_disagreements(read_requirements(PYPROJECT), lock, python)) == expected


def test_a_lower_bound_that_cannot_be_installed_is_reported() -> None:
    lock = read_lock(LOCK.replace("httpx==0.28.1", "httpx==0.29.0"))
    assert list(find_untested_bounds(read_requirements(PYPROJECT), lock)) == [
        "`httpx<1,>=0.28`: the lowest version that can be installed is 0.29.0"
    ]
