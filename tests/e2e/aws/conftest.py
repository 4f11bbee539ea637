"""One emulator and one stack for all tests that are deployed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.aws import REGION, aws_server
from tests.e2e.aws.service import Service
from tests.e2e.aws.stack import OWNER, Stack, build, deploy

__all__ = ["aws_server"]

TOLD = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def tell(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Takes a line that is told when all tests are done."""
    return pytestconfig.stash.setdefault(TOLD, []).append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in config.stash.get(TOLD, ()):
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `sam build` makes of the template; what it has made before lies in the folder `NOETL_TEST_BUILT`, if there is one."""
    given = os.environ.get("NOETL_TEST_BUILT")
    return Path(given) if given else build(tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="session")
def account(aws_server: str) -> Iterator[str]:
    """The URL of the emulator, whose owner this process is."""
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ |= {
        "AWS_ENDPOINT_URL": aws_server,
        "AWS_REGION": REGION,
        "AWS_ACCESS_KEY_ID": OWNER,
        "AWS_SECRET_ACCESS_KEY": OWNER,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    yield aws_server
    os.environ.clear()
    os.environ |= before


@pytest.fixture(scope="session")
def stack(account: str, built: Path) -> Stack:
    """The template of this repository, deployed."""
    return deploy(account, built, AllowedNetworks="127.0.0.0/8")


@pytest.fixture(scope="session")
def service(stack: Stack) -> Iterator[Service]:
    """The service as someone with a key of every scope sees it."""
    with stack.http(stack.key()) as http:
        yield Service(http)
