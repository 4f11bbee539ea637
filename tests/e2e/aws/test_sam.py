"""The commands of operators: `sam deploy` creates the stack, and `sam delete` deletes it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import boto3
import pytest

from noetl.infra.stack import SETTINGS
from tests.aws import REGION
from tests.e2e.aws.stack import SAM, DeployedStack
from tests.tool_environments import ROOT, tool_environment


def sam(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "SAM_CLI_TELEMETRY": "0"}
    command = [str(tool_environment(SAM) / "bin" / "sam"), *arguments, "--region", REGION]
    return subprocess.run(command, env=environ, cwd=folder, check=False, capture_output=True, text=True)


@pytest.fixture(scope="module")
def packaged(account: str, built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the built template, whose packages are in a bucket.

    To make the packages takes most of a deployment.
    """
    folder = tmp_path_factory.mktemp("packaged")
    files = ["--template-file", str(built / "template.yaml"), "--output-template-file"]
    done = sam("package", *files, str(folder / "template.yaml"), "--resolve-s3", folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def deploy(built: Path, folder: Path, *parameters: str) -> subprocess.CompletedProcess[str]:
    options = ["--stack-name", "by-hand", "--resolve-s3", "--no-confirm-changeset", "--no-progressbar"]
    capabilities = ["--capabilities", "CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"]
    template = ["--template-file", str(built / "template.yaml")]
    overrides = ["--parameter-overrides", *parameters]
    return sam("deploy", *template, *options, *capabilities, *overrides, folder=folder)


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ([], "Authentication"),
        (["Authentication=none"], "Authentication"),
        (["Authentication=jwt", "JwtIssuer=https://issuer.test"], "needs JwtAudience"),
        (["Authentication=api-keys", "SubnetIds=subnet-1"], "need SecurityGroupIds"),
    ],
)
def test_an_incomplete_deployment_is_refused(
    account: str, packaged: Path, tmp_path: Path, parameters: list[str], message: str
) -> None:
    done = deploy(packaged, tmp_path, *(parameters or ["JwtIssuer=https://issuer.test"]))
    assert done.returncode != 0
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    stacks = boto3.client("cloudformation", region_name=REGION).describe_stacks()["Stacks"]
    assert "by-hand" not in [found["StackName"] for found in stacks]


@pytest.mark.timeout(400)
def test_a_stack_is_deployed_and_deleted(account: str, built: Path, tmp_path: Path) -> None:
    done = deploy(built, tmp_path, "Authentication=api-keys")
    assert done.returncode == 0, done.stdout + done.stderr
    cloudformation = boto3.client("cloudformation", region_name=REGION)
    [found] = cloudformation.describe_stacks(StackName="by-hand")["Stacks"]
    outputs = {output["OutputKey"]: output["OutputValue"] for output in found["Outputs"]}
    assert outputs["Settings"] in done.stdout  # in one line
    python = ROOT / ".venv" / "bin" / "python"
    command = outputs["Settings"].replace("python", str(python)) + " && env"
    shown = subprocess.run(["sh", "-c", command], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for setting, output in SETTINGS.items():
        assert f"{setting}={outputs[output]}\n" in shown
    stack = DeployedStack(account, outputs)
    with stack.http(None) as http:
        assert http.get("/healthz").json() == {"status": "ok"}
        assert http.get("/workflows").status_code == 401
    with stack.http(stack.create_key("read")) as http:
        assert http.get("/workflows").json() == {"items": [], "next_cursor": None}
    given = dict(part.split("=", 1) for part in outputs["DashboardParameters"].split(" "))
    cloudformation.create_stack(
        StackName="by-hand-dashboard",
        TemplateBody=(ROOT / "infra" / "dashboard.yaml").read_text("utf-8"),
        Parameters=[{"ParameterKey": name, "ParameterValue": value} for name, value in given.items()],
    )
    cloudformation.get_waiter("stack_create_complete").wait(
        StackName="by-hand-dashboard", WaiterConfig={"Delay": 1}
    )
    shown = boto3.client("cloudwatch", region_name=REGION).get_dashboard(DashboardName="by-hand")[
        "DashboardBody"
    ]
    assert outputs["StepFunctionName"] in shown
    done = sam("delete", "--stack-name", "by-hand", "--no-prompts", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    with pytest.raises(cloudformation.exceptions.ClientError, match="does not exist"):
        cloudformation.describe_stacks(StackName="by-hand")
    # The table is retained.
    assert boto3.client("dynamodb", region_name=REGION).describe_table(TableName=outputs["TableName"])
