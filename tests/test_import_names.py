"""The wheel installs one top-level package, `noetl`; in a checkout the short names are the same modules."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

pytestmark = pytest.mark.xdist_group("wheel")  # The fixture of the module is made once.

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("planner", "executor", "api", "infra")


def run_python(code: str, *path: Path, cwd: Path) -> str:
    """Run code in a new process with `path` in front of the import path, and return what it prints."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env=environment,
        cwd=cwd,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel of this checkout installed, next to foreign packages of all four names."""
    folder = tmp_path_factory.mktemp("installed")
    wheels = tmp_path_factory.mktemp("wheels")
    source = tmp_path_factory.mktemp("source") / "noetl"
    _copy_sources(source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "wheel", *offline, "--wheel-dir", wheels, source], check=True)
    [wheel] = wheels.iterdir()
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", folder, wheel], check=True)
    for name in FOLDERS:
        assert not (folder / name).exists()
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("def hello(): return 'a foreign package'\n")
    return folder


def _copy_sources(target: Path) -> None:
    """Copy what the wheel is built from, so that the build leaves nothing in this checkout."""
    for name in ("noetl", *FOLDERS):
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, target / name)


class TestWheel:
    def test_the_wheel_and_foreign_packages_of_the_same_names(self, installed: Path, tmp_path: Path) -> None:
        code = (
            "import api, executor, infra, planner, noetl.api.app, noetl.planner, noetl.executor, noetl.infra;"
            "print(api.hello(), noetl.api.__file__)"
        )
        printed = run_python(code, installed, cwd=tmp_path)
        assert printed == f"a foreign package {installed / 'noetl' / 'api' / '__init__.py'}\n"

    def test_the_command_with_a_foreign_package_in_the_folder(self, installed: Path, tmp_path: Path) -> None:
        code = "import sys; sys.argv = ['noetl', '--version']; from noetl.api.cli import main; main()"
        assert run_python(code, tmp_path, installed, cwd=tmp_path).startswith("noetl ")
        done = subprocess.run(
            [sys.executable, "-m", "noetl", "--version"],
            env=os.environ | {"PYTHONPATH": str(installed)},
            cwd=installed,
            check=True,
            capture_output=True,
            text=True,
        )
        assert done.stdout.startswith("noetl ")

    def test_a_python_action_calls_the_users_package(self, installed: Path, tmp_path: Path) -> None:
        (tmp_path / "planner.py").write_text("def double(x): return 2 * x\n")
        (tmp_path / "p.yaml").write_text(
            "name: p\nsteps:\n- name: a\n  run:\n"
            "  - {action: python, function: 'planner:double', args: {x: 21}}\n"
            "output: {answer: '{{ steps.a.result }}'}\n"
        )
        code = "import sys; sys.argv = ['noetl', 'run', 'p.yaml']; from noetl.api.cli import main; main()"
        assert "42" in run_python(code, installed, cwd=tmp_path)

    def test_every_data_file_is_installed(self, installed: Path, tmp_path: Path) -> None:
        code = (
            "from noetl.planner.diagnostics.explanations import explanation;"
            "from noetl.infra.migrations import migrations;"
            "from noetl.infra.dynamodb import DEFINITION;"
            "print('NP101' in explanation('NP101'), len(migrations()) > 0, DEFINITION.exists())"
        )
        assert run_python(code, installed, cwd=tmp_path) == "True True True\n"


TOY_TEST = """
import pytest
from noetl.testing.store_contract import StoreContract
from toy_store.store import ToyStore

class TestToyStore(StoreContract):
    @pytest.fixture
    def store(self):
        return ToyStore()
"""


@pytest.fixture(scope="module")
def fresh_python(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the interpreter of a new environment with the wheel, its dependencies and pytest."""
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, with_pip=False)
    (packages,) = folder.glob("lib/*/site-packages")
    # The `.pth` file that installs the checkout is not read there.
    (packages / "dependencies.pth").write_text(f"{installed}\n{sysconfig.get_path('purelib')}\n")
    return folder / "bin" / "python"


@pytest.mark.timeout(600)
class TestStoreOutsideOfTheRepository:
    """A copy of the store in memory, in a package of its own, next to the installed wheel."""

    @pytest.fixture
    def toy(self, tmp_path: Path) -> Path:
        """Return a folder with the copied store under another name, and the test of the how-to page."""
        shutil.copytree(ROOT / "executor" / "stores" / "memory", tmp_path / "toy_store")
        for path in (tmp_path / "toy_store").rglob("*.py"):
            text = path.read_text("utf-8").replace("noetl.executor.stores.memory", "toy_store")
            path.write_text(text.replace("Memory", "Toy"), "utf-8")
        (tmp_path / "test_toy_store.py").write_text(TOY_TEST, "utf-8")
        return tmp_path

    def run_contract(self, python: Path, toy: Path, chosen: str = "") -> subprocess.CompletedProcess[str]:
        """Run the tests of the contract whose names contain `chosen`."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
        return subprocess.run(
            [
                *(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"),
                *("-k", chosen, "test_toy_store.py"),
            ],
            cwd=toy,
            env=environment | {"PYTHONPATH": str(toy)},
            check=False,
            capture_output=True,
            text=True,
        )

    def test_a_copied_store_passes_the_contract(self, fresh_python: Path, toy: Path) -> None:
        done = self.run_contract(fresh_python, toy)
        assert done.returncode == 0, done.stdout
        assert int(done.stdout.split()[-4]) > 150, done.stdout

    def test_a_store_that_ignores_fences_fails(self, fresh_python: Path, toy: Path) -> None:
        state = toy / "toy_store" / "state.py"
        text = state.read_text("utf-8")
        assert "and is_held(visit, fence)" in text
        state.write_text(text.replace("and is_held(visit, fence)", ""), "utf-8")
        done = self.run_contract(fresh_python, toy, "lost_claim")
        assert done.returncode == 1, done.stdout
        assert "test_the_commit_of_a_lost_claim_writes_nothing" in done.stdout

    def test_the_page_shows_the_test(self) -> None:
        page = (ROOT / "docs" / "how-to" / "add-a-store.md").read_text("utf-8")
        shown = page.partition("```python\n")[2].partition("```")[0]
        assert (
            shown.replace("my_package", "toy_store").replace("MyStore", "ToyStore").split()
            == TOY_TEST.split()
        )


class TestCheckout:
    @pytest.mark.parametrize("order", ["api.app, noetl.api.app", "noetl.api.app, api.app"])
    def test_both_names_give_the_same_module(self, order: str, tmp_path: Path) -> None:
        code = (
            f"import {order}, sys; import api.http.problems;"
            "print(api is noetl.api, api.app is noetl.api.app,"
            " sys.modules['api.app'].app is noetl.api.app.app,"
            " api.http.problems.Problem is sys.modules['noetl.api.http.problems'].Problem, api.app.__name__)"
        )
        assert run_python(code, ROOT, cwd=tmp_path) == "True True True True noetl.api.app\n"

    @pytest.mark.parametrize("folder", FOLDERS)
    def test_each_folder_is_the_package_in_noetl(self, folder: str, tmp_path: Path) -> None:
        code = f"import {folder}, noetl.{folder}; print({folder} is noetl.{folder})"
        assert run_python(code, ROOT, cwd=tmp_path) == "True\n"

    def test_a_missing_module_is_named(self, tmp_path: Path) -> None:
        code = "try: import api.missing\nexcept ModuleNotFoundError as error: print(error)"
        assert run_python(code, ROOT, cwd=tmp_path) == "No module named 'noetl.api.missing'\n"
