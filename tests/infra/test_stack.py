"""The settings of a deployed stack, as commands of a shell."""

from __future__ import annotations

import json

import pytest

from noetl.infra.stack import main
from tests.aws import Client

QUEUE = "https://sqs.us-east-1.amazonaws.com/1/noetl-StepQueue-1"


def create_stack(aws: Client, name: str, outputs: dict[str, str]) -> None:
    template = {
        "Resources": {"Topic": {"Type": "AWS::SNS::Topic"}},
        "Outputs": {key: {"Value": value} for key, value in outputs.items()},
    }
    aws("cloudformation").create_stack(StackName=name, TemplateBody=json.dumps(template))
    aws("cloudformation").get_waiter("stack_create_complete").wait(
        StackName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 30}
    )


def test_each_setting_is_a_command(aws: Client, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = {
        "StoreUrl": "dynamodb://runs",
        "QueueUrl": QUEUE,
        "BucketName": "values",
        "ApiUrl": "https://a",
    }
    create_stack(aws, "noetl", outputs)
    main(["noetl"])
    assert capsys.readouterr().out.splitlines() == [
        "export NOETL_STORE=dynamodb://runs",
        f"export NOETL_QUEUE={QUEUE}",
        "export NOETL_BUCKET=values",
    ]


def test_another_stack_is_refused(aws: Client) -> None:
    create_stack(aws, "other", {"StoreName": "x"})
    with pytest.raises(SystemExit, match="has no output StoreUrl"):
        main(["other"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [([], "usage: eval"), (["a", "b"], "usage: eval"), (["missing"], "stack missing")],
)
def test_a_failure_is_a_sentence(aws: Client, arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        main(arguments)
