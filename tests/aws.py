"""An emulator of AWS for tests: `ministack`, in its own environment, because it pins other versions.

The environment is created once from the package index. The server is private to the test process, enforces
permissions, and keeps its data in memory. Each test has its own account.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError

import boto3
import pytest

from noetl.executor.clients import aws as aws_clients
from noetl.infra import dynamodb
from tests.http_server import find_free_port
from tests.tool_environments import tool_environment

REQUIREMENTS = ("ministack==1.5.33", "aws-sam-translator", "cryptography", "boto3==1.43.106")
"""Packages of the emulator, and those with which it reads SAM templates."""

REGION = "us-east-1"
_TRIES = 3

Client = Callable[[str], Any]
"""Function that returns the client of a service, as the owner of the account of the test."""


@pytest.fixture(scope="session")
def aws_server() -> Iterator[str]:
    """The URL of a running server."""
    with running_emulator() as url:
        yield url


@pytest.fixture
def aws(aws_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """An empty account, which the code under test finds in its environment."""
    with empty_account(aws_server, monkeypatch) as client:
        yield client


@contextmanager
def running_emulator() -> Iterator[str]:
    """Yield the URL of a new server."""
    program = tool_environment(*REQUIREMENTS) / "bin" / "ministack"
    with tempfile.TemporaryDirectory(prefix="noetl-aws-") as folder:
        for tries in range(1, _TRIES + 1):
            url = f"http://127.0.0.1:{find_free_port()}"
            process = _start(program, url, Path(folder))
            try:
                if _wait_for_answer(process, url):
                    yield url
                    return
            finally:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            assert tries < _TRIES, f"ministack does not start: {Path(folder, 'output').read_text()}"


@contextmanager
def empty_account(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """Yield the clients of an empty account, which the code under test finds in its environment."""
    account = "".join(secrets.choice("123456789") for _ in range(12))
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_REGION", REGION)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    # Every minute, the emulator deletes what has expired: all items of tests whose clock begins at 1970.
    monkeypatch.setattr(dynamodb, "TIME_TO_LIVE", "never set")
    use_credentials(monkeypatch, account, "test")
    yield lambda service: boto3.client(
        service, region_name=REGION, aws_access_key_id=account, aws_secret_access_key="test"
    )
    aws_clients.reset_clients()


def use_credentials(monkeypatch: pytest.MonkeyPatch, key_id: str, key: str) -> None:
    """Let the code under test use these credentials."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key)
    aws_clients.reset_clients()


def drop_permissions(aws: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the code under test be a user of the account without any permissions."""
    iam = aws("iam")
    iam.create_user(UserName="nobody")
    key = iam.create_access_key(UserName="nobody")["AccessKey"]
    use_credentials(monkeypatch, key["AccessKeyId"], key["SecretAccessKey"])


def _start(program: Path, url: str, folder: Path) -> subprocess.Popen[bytes]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")} | {
        "AUTH": "true",
        "AWS_ENDPOINT_URL": url,
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": url.rpartition(":")[2],
        "IOT_MTLS_ENABLED": "0",
        "MINISTACK_REGION": REGION,
        "TMPDIR": str(folder),
    }
    # Lambda functions run in child processes of the server, which end with its process group.
    with (folder / "output").open("wb") as output:
        return subprocess.Popen(
            [program],
            cwd=folder,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            process_group=0,
        )


def _wait_for_answer(process: subprocess.Popen[bytes], url: str) -> bool:
    """Wait until the server answers, and return False if it has ended instead."""
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"{url}/_ministack/health"):
                return True
        except (URLError, ConnectionError):
            try:
                process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
            return False
    return False
