"""Fixtures: one emulator of AWS and one deployed stack for all tests of this folder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.aws import REGION
from tests.e2e.aws.service import DeployedService
from tests.e2e.aws.stack import OWNER, DeployedStack, build, deploy

SECRETS_PREFIX = "e2e/"
"""What the names of secrets of the stack begin with."""

BUCKET = "e2e-orders"
TRIGGER_QUEUE = "e2e-orders"
DEAD_QUEUE = "e2e-dead-orders"
"""The bucket and the queue that start runs, and the dead-letter queue of the latter."""

PUT_EVENTS = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": "events:PutEvents", "Resource": "*"}],
}
"""The policy that an operator gives the functions for a channel of type `eventbridge`."""

REPORT_LINES = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def report_line(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """A function that takes a line, which is printed after all tests."""
    return pytestconfig.stash.setdefault(REPORT_LINES, []).append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in config.stash.get(REPORT_LINES, ()):
        terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of `sam build`. The environment variable `NOETL_TEST_BUILT` names an earlier one."""
    given = os.environ.get("NOETL_TEST_BUILT")
    return Path(given) if given else build(tmp_path_factory.mktemp("built"))


@pytest.fixture(scope="session")
def account(aws_server: str) -> Iterator[str]:
    """The URL of the emulator. The environment has the credentials of its owner."""
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
def stack(account: str, built: Path) -> DeployedStack:
    """A deployed stack of the template, with sources of triggers."""
    sqs = DeployedStack(account, {}).client("sqs")
    dead = sqs.create_queue(QueueName=DEAD_QUEUE)["QueueUrl"]
    names = {"QueueUrl": dead, "AttributeNames": ["QueueArn"]}
    redrive = {
        "deadLetterTargetArn": sqs.get_queue_attributes(**names)["Attributes"]["QueueArn"],
        "maxReceiveCount": "1",
    }
    attributes = {"VisibilityTimeout": "180", "RedrivePolicy": json.dumps(redrive)}
    url = sqs.create_queue(QueueName=TRIGGER_QUEUE, Attributes=attributes)["QueueUrl"]
    names = {"QueueUrl": url, "AttributeNames": ["QueueArn"]}
    policy = {"PolicyName": "e2e-notifications", "PolicyDocument": json.dumps(PUT_EVENTS)}
    return deploy(
        account,
        built,
        ActionsPolicyArn=DeployedStack(account, {}).client("iam").create_policy(**policy)["Policy"]["Arn"],
        AllowedNetworks="127.0.0.0/8",
        NotificationBuses="default",
        SecretsHosts="HOOK: 127.0.0.1",
        SecretsPrefix=SECRETS_PREFIX,
        TriggerBuckets=BUCKET,
        TriggerEvents="com.example.shop,noetl",
        TriggerQueueArn=sqs.get_queue_attributes(**names)["Attributes"]["QueueArn"],
    )


@pytest.fixture(scope="session")
def service(stack: DeployedStack) -> Iterator[DeployedService]:
    """The deployed service, used with a key of every scope."""
    with stack.http(stack.create_key()) as http:
        yield DeployedService(http)
