"""AWS in the process of the tests: moto answers the requests of botocore before they are sent.

It takes milliseconds, and knows no permissions. `tests/aws.py` has the emulator, which is a server.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import boto3
import pytest

from noetl.executor.clients import aws as aws_clients
from tests.aws import REGION, Client, use_credentials


@pytest.fixture
def moto_aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    """An empty account, which the code under test finds in its environment."""
    from moto import mock_aws

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_REGION", REGION)
    with mock_aws(config={"lambda": {"use_docker": False}}):
        use_credentials(monkeypatch, "testing", "testing")
        yield lambda service: boto3.client(service, region_name=REGION)
    aws_clients.reset_clients()
