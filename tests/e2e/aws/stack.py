"""The template of this repository, built and deployed into an emulator of AWS.

The functions run under the runtime client of AWS, in an environment with only that client and boto3. Their
packages are built for this machine. The template is changed where the emulator differs from AWS:

- It passes numbers as text.
- It checks a permission `sqs:SendMessageBatch`, where AWS checks `sqs:SendMessage` for both operations.
- It uses plain HTTP, which the policy of the bucket denies.
"""

from __future__ import annotations

import io
import json
import os
import platform
import secrets
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import httpx
import yaml

from noetl.api.auth.api_keys import create_api_key
from noetl.executor.stores import open_store
from tests.aws import REGION
from tests.tool_environments import ROOT, tool_environment

SAM = "aws-sam-cli==1.170.0"
RUNTIME = ("awslambdaric==4.2.2", "boto3")
FUNCTIONS = ("ApiFunction", "StepFunction", "DeadLetterFunction", "SweepFunction", "TriggerFunction")
CONTENT = {"Content-Type": "application/yaml"}
SECONDS = 60.0
OWNER = "test"
"""Access key and secret of the owner of the account, who has every permission."""


def build(folder: Path) -> Path:
    """Run `sam build` into a folder, and return the folder."""
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "SAM_"))},
        "NOETL_ARCHITECTURE": {"aarch64": "arm64"}.get(platform.machine(), platform.machine()),
        "NOETL_PYTHON": ".".join(platform.python_version_tuple()[:2]),
        "PYTHON": str(ROOT / ".venv" / "bin" / "python"),
        "SAM_CLI_TELEMETRY": "0",
    }
    sam = tool_environment(SAM) / "bin" / "sam"
    template = ROOT / "template.yaml"
    command: list[str | Path] = [
        sam,
        "build",
        "--template",
        template,
        "--build-dir",
        folder,
        "--region",
        REGION,
    ]
    completed = subprocess.run(command, env=environ, cwd=ROOT, check=False, capture_output=True, text=True)
    assert completed.returncode == 0, completed.stdout + completed.stderr
    return folder


def package(folder: Path) -> bytes:
    """Return the package of a function as a zip file, with the script that starts it here."""
    python = tool_environment(*RUNTIME) / "bin" / "python"
    start = f'#!/bin/sh\ncd "$LAMBDA_TASK_ROOT"\nexec {python} -m awslambdaric "$_HANDLER"\n'
    body = io.BytesIO()
    with zipfile.ZipFile(body, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path in folder.rglob("*"):
            if path.is_file():
                archive.write(path, path.relative_to(folder))
        entry = zipfile.ZipInfo("bootstrap")
        entry.external_attr = 0o755 << 16
        archive.writestr(entry, start)
    return body.getvalue()


class _CloudFormationLoader(yaml.SafeLoader):
    """A YAML loader that reads `!Ref a` as `{"Ref": "a"}`, and the other tags accordingly."""


def _tagged(loader: _CloudFormationLoader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    name = suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}"
    if isinstance(node, yaml.ScalarNode):
        value: Any = loader.construct_scalar(node)
        return {name: value.split(".", 1) if suffix == "GetAtt" else value}
    if isinstance(node, yaml.SequenceNode):
        return {name: loader.construct_sequence(node, deep=True)}
    assert isinstance(node, yaml.MappingNode)
    return {name: loader.construct_mapping(node, deep=True)}


_CloudFormationLoader.add_multi_constructor("!", _tagged)


@dataclass(frozen=True)
class DeployedStack:
    """A deployed stack: its outputs, and clients of the only account that the emulator's gateway knows."""

    server: str
    outputs: Mapping[str, str]
    name: str = ""

    def client(self, service: str) -> Any:
        return boto3.client(
            service,
            region_name=REGION,
            endpoint_url=self.server,
            aws_access_key_id=OWNER,
            aws_secret_access_key=OWNER,
        )

    def create_key(self, scope: str = "admin", tenant: str = "default") -> str:
        """Create an API key directly in the store, and return its text."""
        text, key = create_api_key("tests", [scope], tenant, time.time())
        store = open_store(self.outputs["StoreUrl"])
        store.keys.add(key)
        store.close()
        return text

    def read_log(self, function: str) -> str:
        """Return the log of a function."""
        logs = self.client("logs")
        return "\n".join(
            event["message"]
            for event in logs.filter_log_events(logGroupName=f"/noetl/{self.name}/{function}")["events"]
        )

    def sweep(self) -> dict[str, Any]:
        """Invoke the sweep as its schedule does, and return its answer."""
        answer = self.client("lambda").invoke(FunctionName=self.outputs["SweepFunctionName"], Payload=b"{}")
        assert "FunctionError" not in answer, self.read_log("sweep")
        return dict(json.loads(answer["Payload"].read()))

    def set_visibility_timeout(self, seconds: int) -> None:
        """Set the visibility timeout of both queues."""
        for queue in ("QueueUrl", "DeadLetterQueueUrl"):
            attributes = {"VisibilityTimeout": str(seconds)}
            self.client("sqs").set_queue_attributes(QueueUrl=self.outputs[queue], Attributes=attributes)

    @contextmanager
    def changed_settings(self, function: str, **settings: str) -> Iterator[None]:
        """Change settings of a function for the duration of the block."""
        functions, name = self.client("lambda"), self.outputs[function]
        before = functions.get_function_configuration(FunctionName=name)["Environment"]["Variables"]
        functions.update_function_configuration(
            FunctionName=name, Environment={"Variables": before | settings}
        )
        try:
            yield
        finally:
            functions.update_function_configuration(FunctionName=name, Environment={"Variables": before})

    def http(self, key: str | None) -> httpx.Client:
        """Return a client that sends its requests through the gateway."""
        headers = {"Host": f"{self.outputs['ApiId']}.execute-api.localhost"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        return httpx.Client(base_url=self.server, headers=headers, timeout=SECONDS)

    def count_messages(self, queue: str) -> int:
        """Return the number of messages in a queue, also of those in flight and delayed."""
        names = (
            "ApproximateNumberOfMessages",
            "ApproximateNumberOfMessagesNotVisible",
            "ApproximateNumberOfMessagesDelayed",
        )
        found = self.client("sqs").get_queue_attributes(QueueUrl=self.outputs[queue], AttributeNames=["All"])[
            "Attributes"
        ]
        return sum(int(found.get(name, 0)) for name in names)


def _put_numbers(template: Any, given: Mapping[str, str]) -> None:
    """Replace references to numeric parameters by their values, because the emulator passes text.

    Variables of the environment are text.
    """
    numbers = {
        name: int(given.get(name, parameter["Default"]))
        for name, parameter in template["Parameters"].items()
        if parameter["Type"] == "Number"
    }

    def put(value: Any, place: str = "") -> Any:
        if isinstance(value, dict) and value.get("Ref") in numbers and place != "Fn::FindInMap":
            return numbers[value["Ref"]]
        if isinstance(value, dict):
            return {name: part if name == "Variables" else put(part, name) for name, part in value.items()}
        return [put(part, place) for part in value] if isinstance(value, list) else value

    template["Resources"] = put(template["Resources"])


def deploy(
    server: str, built: Path, change: Callable[[Any], object] = lambda _: None, **parameters: str
) -> DeployedStack:
    """Create a stack of a built template, and return it. `change` may modify the template first."""
    stack = DeployedStack(server, {})
    s3, cloudformation = stack.client("s3"), stack.client("cloudformation")
    bucket = f"packages-{secrets.token_hex(4)}"
    s3.create_bucket(Bucket=bucket)
    template = yaml.load((built / "template.yaml").read_text("utf-8"), _CloudFormationLoader)
    template.get("Globals", {}).get("Function", {}).pop("Runtime", None)
    packages: dict[str, bytes] = {}
    for name in FUNCTIONS:
        function = template["Resources"][name]["Properties"]
        handler = function["Handler"].split(".")[1]
        if handler not in packages:
            packages[handler] = package(built / name)
            s3.put_object(Bucket=bucket, Key=handler, Body=packages[handler])
        function |= {"CodeUri": f"s3://{bucket}/{handler}", "Runtime": "provided.al2023"}
        for policy in template["Resources"][f"{name}Role"]["Properties"]["Policies"]:
            for statement in policy["PolicyDocument"]["Statement"]:
                if statement.get("Action") == "sqs:SendMessage":
                    statement["Action"] = ["sqs:SendMessage", "sqs:SendMessageBatch"]
    del template["Resources"]["PayloadBucketPolicy"]
    change(template)
    given = {"Authentication": "api-keys", "Architecture": "x86_64", "StepTimeoutSeconds": "15", **parameters}
    _put_numbers(template, given)
    name = f"noetl-{secrets.token_hex(4)}"
    # A template of more than 51,200 bytes is read from a bucket. `sam deploy` does the same.
    s3.put_object(Bucket=bucket, Key="template.json", Body=json.dumps(template).encode())
    cloudformation.create_stack(
        StackName=name,
        TemplateURL=f"{server}/{bucket}/template.json",
        Capabilities=["CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"],
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in given.items()],
    )
    deadline = time.monotonic() + SECONDS
    while True:
        [found] = cloudformation.describe_stacks(StackName=name)["Stacks"]
        if found["StackStatus"] == "CREATE_COMPLETE":
            outputs = {output["OutputKey"]: output["OutputValue"] for output in found["Outputs"]}
            return DeployedStack(server, outputs, name)
        if "IN_PROGRESS" not in found["StackStatus"] or time.monotonic() > deadline:
            events = cloudformation.describe_stack_events(StackName=name)["StackEvents"]
            raise AssertionError("\n".join(str(event.get("ResourceStatusReason")) for event in events))
        time.sleep(0.1)
