"""Test sessions: on every Python from 3.11 up that is at hand, and with the lowest versions.

    make test-pythons                   # the sessions of CI; a Python that is missing is skipped
    nox -s tests-3.12 -- tests          # one session, with all its tests
    nox -s tests-3.12 -- tests/planner  # one session, and the tests of one folder

`make test` runs every test with the locked versions on one Python. The sessions run fewer examples of each
property. The versions of Python between the lowest and the own one run what depends on them most (DEPENDENT).
`lowest` also runs what uses other packages (WITH_PACKAGES). It leaves out what makes the same calls of them
(SAME_CALLS). With arguments, a session leaves out only what depends on neither (INDEPENDENT). mypy checks
that the code uses only the standard library of the lowest Python.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import nox

PYTHONS = tuple(nox.project.python_versions(nox.project.load_toml(), max_version="3.14"))
LOWEST = PYTHONS[0]
OWN = f"{sys.version_info.major}.{sys.version_info.minor}"
WITH_PIP = ("--seed",)  # Messages of missing extras name pip where it is installed, and tests call it.
FUNCTIONS = ("step", "api")  # the packages of `infra/build.py`
INDEPENDENT = (
    "tests/style",  # the text of the repository
    "tests/docs",  # the pages
    "tests/recipes",  # clones of the repository
    "tests/infra",  # templates, reports and the sizes of packages
    "tests/simulation",  # faults in an order that the tests choose
    "tests/planner/test_hostile.py",  # calls of functions, which each version of Python counts differently
    "tests/test_benchmarks.py",  # tools of this repository
    "tests/e2e",  # whole programs, whose parts other tests run; on AWS they bring a Python of their own
    "tests/fuzz",  # findings of the fuzzer
    "tests/language",  # the meaning of playbooks, also in the next four
    "tests/metamorphic",
    "tests/oracle",
    "tests/planner/test_agreement.py",
    "tests/planner/test_rule_coverage.py",
    "tests/security/test_bombs.py",  # the work of templates, counted in units
    "tests/security/test_canaries.py",  # texts in databases and logs
    "tests/api/cli",  # commands, whose outputs `tests/golden` has, too
    "tests/api/clients",  # clients in environments of their own
    "tests/api/test_dynamo_read_costs.py",  # counts of requests
    "tests/api/test_generated_requests.py",  # the meaning of requests that a generator makes
    "tests/contract/test_cost.py",  # counts of requests
    "tests/contract/test_dynamodb.py",  # the meaning of a store; other tests use the client
    "tests/contract/test_dynamodb_gate_operations.py",  # random operations against a model
    "tests/contract/test_dynamodb_races.py",  # requests in an order that the tests choose
    "tests/executor/test_consistent_cut.py",  # random runs against a model, also in the next eight
    "tests/executor/test_corrected_restarts.py",
    "tests/executor/test_known_switches.py",
    "tests/executor/test_past_restart.py",
    "tests/executor/test_plan_switch.py",
    "tests/executor/test_replay.py",
    "tests/executor/test_sequential_switches.py",
    "tests/executor/test_suspended_switches.py",
    "tests/executor/test_switching.py",
    "tests/executor/test_dynamo_times.py",  # the times of runs, counted from their events
    "tests/executor/test_state_space.py",  # orders of the same choices
    "tests/executor/test_transitions_once.py",  # texts of the sources
    "tests/executor/test_backfill.py",  # which runs start, on stores in memory, also in the next five
    "tests/executor/test_end_entries.py",
    "tests/executor/test_firing.py",
    "tests/executor/test_notification_entries.py",
    "tests/executor/test_run_firing.py",
    "tests/executor/test_webhook_firing.py",
    "tests/executor/test_webhook_signatures.py",  # texts and their hashes
    "tests/executor/test_notification_loop.py",  # loops with a clock of the tests, also in the next two
    "tests/executor/test_trigger_loop.py",
    "tests/executor/test_tutorial_year.py",
    "tests/executor/test_refused_values.py",  # values of a step against their limits
    "tests/executor/test_short_pauses.py",  # the death of a worker at any write
)
DEPENDENT = (
    # Syntax trees, templates and their limits. What depends on none of them runs with the lowest versions.
    *(
        f"tests/planner/test_{name}.py"
        for name in (
            "compile",
            "patterns",
            "random_expressions",
            "reader",
            "sandbox",
            "templates",
            "watchdog",
        )
    ),
    # Threads, processes and signals.
    "tests/executor/actions",
    *(
        f"tests/executor/test_{name}.py"
        for name in (
            "event_buffer",
            "item_threads",
            "kept_outcomes",
            "memory_budget",
            "precedence",
            "stopping",
            "worker",
            "worker_identity",
        )
    ),
    "tests/golden",  # messages
    "tests/contract/test_sqlite.py",  # the module sqlite3
    "tests/test_imports.py",
)
CLIENTS = (
    # boto3, Typer and Rich, which hide the differences between versions of Python.
    "tests/executor/actions/test_lambda_action.py",
    "tests/executor/actions/test_message_action.py",
    "tests/executor/actions/test_s3_action.py",
    "tests/golden/test_commands.py",
)
SAME_CALLS = tuple(
    # The meaning of requests and of runs. Other tests in this folder make the same calls of packages.
    f"tests/api/test_{name}.py"
    for name in (
        "calendar",
        "durations",
        "http_auth",
        "http_backfills",
        "http_bulk",
        "http_channels",
        "http_comparison",
        "http_delete",
        "http_migrate",
        "http_statistics",
        "http_switch",
        "http_tags",
        "http_triggers",
        "http_ui",
        "loop_items",
        "past_runs",
        "read_costs",
        "registration_checks",
        "run_lists",
        "triggers",
    )
)
WITH_PACKAGES = (
    *(path for path in DEPENDENT if not path.startswith("tests/executor/")),
    "tests/executor",  # boto3, psycopg and HTTPX
    "tests/api",  # FastAPI, Starlette, uvicorn, HTTPX, Typer, Rich and PyJWT
    "tests/contract/test_pgbouncer.py",  # psycopg
    "tests/contract/test_postgres_failures.py",
    "tests/examples",
    "tests/planner/test_draw.py",  # Graphviz
    "tests/planner/test_pictures.py",  # Graphviz and resvg
    "tests/planner/test_graph.py",  # NetworkX
    "tests/planner/test_parser.py",  # Pydantic
    "tests/security/test_commands.py",
    "tests/security/test_egress.py",  # HTTPX and AnyIO
    "tests/security/test_encoded_secrets.py",  # Aho-Corasick
    "tests/security/test_hostile_http.py",
    "tests/security/test_hostile_postgres.py",
    "tests/security/test_injection.py",
    "tests/security/test_kept_connections.py",
    "tests/security/test_log_redaction.py",
    "tests/security/test_servers.py",
    "tests/security/test_terminal.py",
    "tests/test_import_names.py",
    "tests/testing",  # pytest
)

nox.options.error_on_missing_interpreters = False
nox.options.default_venv_backend = "uv"  # It installs the packages of a session in seconds, pip in a minute.
nox.options.download_python = "never"
os.environ.setdefault("UV_NATIVE_TLS", "1")  # uv trusts the certificates of the system, as pip does.
# `make test` has run on this Python, and `lowest` runs on the lowest one.
nox.options.sessions = [f"tests-{python}" for python in PYTHONS if python not in (OWN, LOWEST)] + ["lowest"]


def offer_pyenv_versions() -> None:
    """Let pyenv find all its versions from 3.11 up, and not only the chosen one.

    A Python that pyenv has started sets PYENV_VERSION for its children, so `make` may have inherited it.
    """
    pyenv = shutil.which("pyenv")
    if pyenv is None:
        return
    done = subprocess.run([pyenv, "versions", "--bare"], stdout=subprocess.PIPE, text=True, check=True)
    versions = [line.strip() for line in done.stdout.splitlines() if line.strip().startswith(PYTHONS)]
    chosen = os.environ.get("PYENV_VERSION", "").split(":")
    names = dict.fromkeys(filter(None, [*chosen, *reversed(versions), "system"]))
    os.environ["PYENV_VERSION"] = ":".join(names)


offer_pyenv_versions()


@nox.session(python=PYTHONS, venv_params=WITH_PIP)
def tests(session: nox.Session) -> None:
    """Run the tests that depend on the interpreter most, with the locked versions."""
    run_suite(session, "requirements/dev.txt", DEPENDENT, CLIENTS)


@nox.session(python=LOWEST, venv_params=WITH_PIP)
def lowest(session: nox.Session) -> None:
    """Run the tests that use other packages, with the lowest versions that pyproject.toml allows."""
    run_suite(session, "requirements/lowest.txt", WITH_PACKAGES, SAME_CALLS)


def run_suite(
    session: nox.Session, requirements: str, paths: Sequence[str], left_out: Sequence[str] = ()
) -> None:
    """Install the requirements of a file and the project. Run the tests in `paths` that are not left out.

    Arguments of the session replace both lists.
    """
    session.install("--requirement", requirements)
    session.install("--no-deps", "--no-build-isolation", "--editable", ".")
    ignored = INDEPENDENT if session.posargs else (*INDEPENDENT, *left_out)
    session.run(
        *("pytest", "-n", "auto", "--dist", "loadgroup", *(f"--ignore={path}" for path in ignored)),
        *(session.posargs or paths),
        env={"HYPOTHESIS_PROFILE": "brief"},
    )


@nox.session
def lock(session: nox.Session) -> None:
    """Write the files in `requirements` from pyproject.toml. With `--upgrade`, take new versions.

    Each file has the hashes of all packages. The functions of AWS and the tools get the versions of `dev`.
    """
    project, dev = "pyproject.toml", ("--extra", "dev")
    write_lock(session, "dev", *dev, project)
    write_lock(session, "lowest", "--resolution", "lowest-direct", *dev, project)
    constraint = ("--constraint", "requirements/dev.txt")
    write_lock(session, "audit", "--group", "audit", *constraint)
    write_lock(session, "fuzz", "--group", "fuzz", *constraint, project)
    for package in FUNCTIONS:
        listed = Path(session.create_tmp(), f"{package}.in")
        command = (sys.executable, "infra/build.py", package, "--requirements")
        listed.write_text(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
        write_lock(session, package, *constraint, str(listed))


def write_lock(session: nox.Session, name: str, *options: str) -> None:
    """Write a file of `requirements` for all platforms and all Pythons from the lowest up."""
    session.run(
        *("uv", "pip", "compile", "--quiet", "--universal", "--python-version", LOWEST, "--generate-hashes"),
        *("--output-file", f"requirements/{name}.txt", *options, *session.posargs),
        env={"UV_CUSTOM_COMPILE_COMMAND": "make lock"},
    )


@nox.session
def audit(session: nox.Session) -> None:
    """Compare the locked versions with the known vulnerabilities. A vulnerability is an error."""
    session.install("--requirement", "requirements/audit.txt")
    session.run("python", "infra/audit.py", *(f"requirements/{name}.txt" for name in (*FUNCTIONS, "dev")))


@nox.session
def sbom(session: nox.Session) -> None:
    """Write what the functions of AWS and a complete installation consist of, in the format CycloneDX."""
    session.install("--requirement", "requirements/audit.txt")
    folder = Path("build", "sbom")
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*FUNCTIONS, "dev"):
        session.run(
            *("cyclonedx-py", "requirements", f"requirements/{name}.txt", "--pyproject", "pyproject.toml"),
            *("--output-reproducible", "--output-file", str(folder / f"{name}.cdx.json")),
        )


@nox.session
def fuzz(session: nox.Session) -> None:
    """Fuzz the targets of `tests/fuzz`. Options are those of `python -m tests.fuzz`."""
    session.install("--requirement", "requirements/fuzz.txt")
    session.install("--no-deps", "--editable", ".")
    session.run("python", "-m", "tests.fuzz", *session.posargs)
