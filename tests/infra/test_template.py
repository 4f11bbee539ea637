"""What must hold of the template holds, and each check notices when it does not."""

from __future__ import annotations

import copy
import json
import re
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from noetl.infra.checks import TEMPLATE, broken_rules, problems

from tests.tools import ROOT, environment

TRANSLATOR = "aws-sam-translator==1.115.0"
SAM = "aws-sam-cli==1.170.0"

Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    """The template as CloudFormation sees it."""
    python = environment(TRANSLATOR, "pyyaml") / "bin" / "python"
    code = "import json; from noetl.infra.checks import transformed; print(json.dumps(transformed()))"
    done = subprocess.run([python, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def of(template: dict[str, Any], name: str) -> Any:
    return template["Resources"][name]["Properties"]


def statement(template: dict[str, Any], function: str, sid: str) -> Any:
    policies = of(template, f"{function}Role")["Policies"]
    statements = [one for policy in policies for one in policy["PolicyDocument"]["Statement"]]
    chosen = [one for statement in statements for one in statement.get("Fn::If", [None, statement])[1:]]
    [found] = [one for one in chosen if one.get("Sid") == sid]
    return found


def test_everything_holds(template: dict[str, Any]) -> None:
    assert problems(template) == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: of(t, "StepFunction").pop("RecursiveLoop"), "lacks `RecursiveLoop: Allow`"),
        (lambda t: of(t, "StepFunction").update(RecursiveLoop="Terminate"), "lacks `RecursiveLoop: Allow`"),
        (lambda t: of(t, "SweepFunction").update(RecursiveLoop="Allow"), "for no reason"),
        (lambda t: of(t, "StepQueue").pop("VisibilityTimeout"), "hides messages for 30 s"),
        (lambda t: t["Mappings"]["Visibility"]["900"].update(Seconds=5399), "hides messages for 5399 s"),
        (lambda t: of(t, "DeadLetterFunction").update(Timeout=900), "may take 900 s"),
        (lambda t: of(t, "StepFunctionMessages").pop("FunctionResponseTypes"), "does not report"),
        (lambda t: of(t, "StepFunctionMessages").update(BatchSize=11), "needs a batching window"),
        (lambda t: of(t, "StepFunctionMessages").pop("ScalingConfig"), "no maximum concurrency"),
        (lambda t: of(t, "StepQueue").pop("RedrivePolicy"), "has no dead-letter queue"),
        (lambda t: of(t, "StepQueue")["RedrivePolicy"].update(maxReceiveCount=1), "fewer than 5 tries"),
        (lambda t: of(t, "DeadLetterQueue").update(MessageRetentionPeriod=60), "forgets messages"),
        (lambda t: t["Resources"].pop("DeadLetterFunctionMessages"), "nobody reads DeadLetterQueue"),
        (lambda t: of(t, "StepQueue").pop("SqsManagedSseEnabled"), "StepQueue is not encrypted"),
        (lambda t: of(t, "Table").pop("SSESpecification"), "Table is not encrypted"),
        (lambda t: of(t, "Table").pop("PointInTimeRecoverySpecification"), "no point-in-time recovery"),
        (lambda t: of(t, "Table").pop("TimeToLiveSpecification"), "no time to live"),
        (lambda t: of(t, "PayloadBucket").pop("BucketEncryption"), "PayloadBucket is not encrypted"),
        (lambda t: of(t, "PayloadBucket")["PublicAccessBlockConfiguration"].pop("BlockPublicAcls"), "made public"),
        (lambda t: t["Resources"].pop("PayloadBucketPolicy"), "without encryption on the way"),
        (lambda t: t["Resources"]["Table"].pop("DeletionPolicy"), "Table is deleted with the stack"),
        (lambda t: statement(t, "ApiFunction", "Data")["Action"].append("dynamodb:*"), "may dynamodb:*"),
        (lambda t: statement(t, "ApiFunction", "Data").update(Resource="*"), 'has rights on "*"'),
        (lambda t: statement(t, "ApiFunction", "Messages").update(Resource="arn:aws:sqs:*:1:a"), "has rights on"),
        (lambda t: statement(t, "StepFunction", "Payloads").update(NotAction="s3:GetObject"), "does not say what"),
        (lambda t: of(t, "SweepFunction").update(Role=of(t, "StepFunction")["Role"]), "shares the role"),
        (lambda t: of(t, "DeadLetterFunction")["Environment"]["Variables"].pop("NOETL_ALLOW_NETWORKS"), "other settings"),
        (lambda t: statement(t, "DeadLetterFunction", "Payloads")["Action"].pop(), "has other rights than StepFunction"),
        (lambda t: t["Parameters"]["Authentication"].update(Default="api-keys"), "must be chosen"),
        (lambda t: t["Parameters"]["Authentication"]["AllowedValues"].append("none"), "must be chosen"),
        (lambda t: t["Rules"].clear(), "tokens are believed without `JwtIssuer`"),
        (lambda t: t["Rules"]["TokensNeedAnIssuer"]["Assertions"].pop(), "tokens are believed without `JwtAudience`"),
        (lambda t: t["Rules"].pop("SubnetsNeedSecurityGroups"), "`SubnetIds` are taken without `SecurityGroupIds`"),
        (lambda t: t["Rules"].pop("SecurityGroupsNeedSubnets"), "`SecurityGroupIds` are taken without `SubnetIds`"),
        (lambda t: of(t, "ApiFunction")["Environment"]["Variables"].pop("NOETL_JWT_AUDIENCE"), "does not learn of"),
        (lambda t: of(t, "StepFunction")["Environment"]["Variables"].update(NOETL_ALLOW_SHELL="1"), "NOETL_ALLOW_SHELL"),
        (lambda t: of(t, "ApiFunction")["Environment"]["Variables"].pop("NOETL_ALLOW_ACTIONS"), "not learn of AllowedActions"),
        (lambda t: of(t, "SweepFunction")["Environment"]["Variables"].pop("NOETL_RETENTION_DAYS"), "not learn of RetentionDays"),
        (lambda t: t["Resources"]["PayloadBucket"].pop("Condition"), "PayloadBucket is made although runs are kept in Postgres"),
        (lambda t: of(t, "SweepFunction")["Environment"]["Variables"].update(NOETL_STORE="x"), "SweepFunction does not learn where runs"),
        (lambda t: statement(t, "ApiFunction", "Address").update(Resource="arn:aws:x"), "ApiFunction may not read the address"),
        (lambda t: of(t, "ApiRoute").update(RouteKey="GET /open"), "a route beside the app's own"),
        (lambda t: of(t, "ApiFunction").update(Timeout=60), "may take 60 s"),
        (lambda t: of(t, "ApiFunction").update(Timeout=10), "may take 10 s"),
        (lambda t: of(t, "ApiIntegration").update(PayloadFormatVersion="1.0"), "payloads of format 2.0"),
        (lambda t: of(t, "ApiStage").pop("DefaultRouteSettings"), "any number of requests"),
        (lambda t: of(t, "ApiStage")["AccessLogSettings"].update(Format="$context.path"), "logs paths"),
        (lambda t: of(t, "StepLogs").pop("RetentionInDays"), "StepFunction keeps its logs for ever"),
        (lambda t: of(t, "ApiFunction").pop("LoggingConfig"), "ApiFunction keeps its logs for ever"),
        (lambda t: t["Resources"].pop("ThrottlesAlarm"), "no alarm for Throttles"),
        (lambda t: of(t, "GivenUpAlarm").pop("AlarmActions"), "tells nobody"),
        (lambda t: of(t, "Table")["KeySchema"].reverse(), "another KeySchema"),
    ],
)  # fmt: skip
def test_what_does_not_hold_is_noticed(template: dict[str, Any], change: Change, sentence: str) -> None:
    changed = copy.deepcopy(template)
    change(changed)
    found = problems(changed)
    assert any(sentence in problem for problem in found), found


@pytest.mark.parametrize(
    ("given", "broken"),
    [
        ({"Authentication": "api-keys"}, 0),
        ({"Authentication": "jwt"}, 2),
        ({"Authentication": "jwt", "JwtIssuer": "https://issuer.test"}, 1),
        ({"Authentication": "jwt", "JwtIssuer": "https://issuer.test", "JwtAudience": "noetl"}, 0),
        ({"Authentication": "api-keys", "SubnetIds": "subnet-1,subnet-2"}, 1),
        ({"Authentication": "api-keys", "SecurityGroupIds": "sg-1"}, 1),
        ({"Authentication": "api-keys", "SubnetIds": "subnet-1,subnet-2", "SecurityGroupIds": "sg-1"}, 0),
    ],
)
def test_deployments_that_are_refused(template: dict[str, Any], given: dict[str, str], broken: int) -> None:
    defaults = {name: parameter.get("Default") for name, parameter in template["Parameters"].items()}
    assert len(broken_rules(template, defaults | given)) == broken


@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", [TEMPLATE, ROOT / "infra" / "dashboard.yaml"], ids=lambda path: path.name)
def test_the_linter_finds_nothing(path: Any) -> None:
    sam = environment(SAM) / "bin" / "sam"
    command = [sam, "validate", "--lint", "--region", "us-east-1", "--template", path]
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(ROOT / ".venv"), "SAM_CLI_TELEMETRY": "0"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environ)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_dashboard_is_given_what_it_asks_for(template: dict[str, Any]) -> None:
    text = (ROOT / "infra" / "dashboard.yaml").read_text("utf-8")
    asked = re.findall(r"^  (\w+): \{Type: String", text, re.MULTILINE)
    given = json.dumps(template["Outputs"]["DashboardParameters"])
    assert len(asked) == 9
    assert sorted(set(re.findall(r"(\w+)=", given))) == sorted(asked)


def test_every_metric_on_the_dashboard_is_one_that_there_is(template: dict[str, Any]) -> None:
    text = (ROOT / "infra" / "dashboard.yaml").read_text("utf-8")
    body = json.loads(text.partition("DashboardBody: !Sub |")[2])
    metrics = {
        (metric[0], metric[1])
        for widget in body["widgets"]
        for metric in widget["properties"].get("metrics", [])
    }
    alarmed = {
        (resource["Properties"]["Namespace"], resource["Properties"]["MetricName"])
        for resource in template["Resources"].values()
        if resource["Type"] == "AWS::CloudWatch::Alarm"
    }
    assert alarmed <= metrics
