"""The build of packages chooses the processor that the parameters give to the functions."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from noetl.infra.build import PACKAGES, ROOT, read_architecture


@pytest.mark.parametrize(
    ("configuration", "architecture"),
    [
        (None, "arm64"),
        ("version = 0.1", "arm64"),
        ("[default.deploy.parameters]\nparameter_overrides = 'Authentication=\"jwt\"'", "arm64"),
        (
            '[default.deploy.parameters]\nparameter_overrides = \'A="b" Architecture="x86_64"\'',
            "x86_64",
        ),
        ("[default.global.parameters]\nparameter_overrides = ['Architecture=x86_64', 'A=b']", "x86_64"),
        (
            (
                "[default.deploy.parameters]\nparameter_overrides = 'Architecture=arm64'\n"
                "[other.deploy.parameters]\nparameter_overrides = 'Architecture=x86_64'"
            ),
            "arm64",
        ),
    ],
)
def test_the_architecture_is_that_of_the_parameters(
    tmp_path: Path, configuration: str | None, architecture: str
) -> None:
    file = tmp_path / "samconfig.toml"
    if configuration is not None:
        file.write_text(configuration)
    assert read_architecture(file) == architecture


IMPORT = re.compile(r"^\s*(?:from|import) (\w+)", re.MULTILINE)
"""The first part of the name of a module in a line that imports it."""

LOAD = """
import sys
from importlib import import_module

class Missing:
    def find_spec(self, name, path=None, target=None):
        if any(name == left_out or name.startswith(left_out + ".") for left_out in sys.argv[2:]):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
import_module(sys.argv[1]).PRELOAD.load()
"""

REFUSE = (
    LOAD
    + """
from noetl.executor.model.declared_values import DeclaredFields
from noetl.planner.plan import Input

fields = DeclaredFields({"count": Input("integer", True)}, "input", "the playbook")
assert fields.find_problems({"count": "many"})
"""
)


@pytest.mark.parametrize(
    ("name", "module", "packages"),
    [
        ("step", "noetl.executor.lambda_handler", ("fastapi", "networkx", "pydantic", "typer", "yaml")),
        ("api", "noetl.api.lambda_handler", ("typer",)),
    ],
)
@pytest.mark.parametrize("store", ["dynamodb://noetl", "postgresql://localhost/noetl"])
def test_a_function_loads_and_refuses_inputs_without_what_its_package_leaves_out(
    name: str, module: str, packages: tuple[str, ...], store: str
) -> None:
    left_out = [f"noetl.{path.replace('/', '.')}" for path in PACKAGES[name].excluded]
    done = subprocess.run(
        [sys.executable, "-c", REFUSE, module, *left_out, *packages],
        check=False,
        env={**os.environ, "NOETL_STORE": store},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_the_package_of_the_api_has_what_its_modules_import() -> None:
    """Imports within functions count, too. Lambda has botocore, and no route needs the last two."""
    package, imported = PACKAGES["api"], set[str]()
    for source in (path for folder in package.packages for path in (ROOT / folder).rglob("*.py")):
        if not source.relative_to(ROOT).as_posix().startswith(package.excluded):
            imported.update(IMPORT.findall(source.read_text("utf-8")))
    lock = (ROOT / "requirements" / "api.txt").read_text("utf-8")
    locked = set(re.findall(r"^([a-z0-9-]+)==", lock, re.MULTILINE))
    missing = {
        module
        for module, names in packages_distributions().items()
        if module in imported and locked.isdisjoint(map(canonicalize_name, names))
    }
    assert missing == {"noetl", "botocore", "resvg_py", "uvicorn"}


def test_the_executor_must_not_import_what_the_package_of_steps_leaves_out() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    contracts = project["tool"]["importlinter"]["contracts"]
    [contract] = [c for c in contracts if c["name"] == "the executor starts without the compiler"]
    left_out = {
        f"noetl.{path.replace('/', '.')}"
        for path in PACKAGES["step"].excluded
        if path.startswith("planner/") and path != "planner/diagnostics/explanations"
    }
    assert left_out <= set(contract["forbidden_modules"])
