"""The template passes all checks, and each check finds the problem that it is for."""

from __future__ import annotations

import copy
import json
import re
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.routing import APIRoute

from noetl.api.access import PublicAccess, StreamAccess, declared_access
from noetl.api.app import find_routers
from noetl.infra.checks import PUBLIC_ROUTES, TEMPLATE, broken_rules, find_problems
from tests.tool_environments import ROOT, tool_environment

pytestmark = pytest.mark.xdist_group("template")  # The fixture of the module is made once.

TRANSLATOR = "aws-sam-translator==1.115.0"
SAM = "aws-sam-cli==1.170.0"

Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    """The template of CloudFormation after the SAM transform."""
    python = tool_environment(TRANSLATOR, "pyyaml") / "bin" / "python"
    code = (
        "import json; from noetl.infra.checks import transform_template;"
        " print(json.dumps(transform_template()))"
    )
    done = subprocess.run([python, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def properties(template: dict[str, Any], name: str) -> Any:
    return template["Resources"][name]["Properties"]


def variables(template: dict[str, Any], function: str) -> Any:
    return properties(template, function)["Environment"]["Variables"]


def statement(template: dict[str, Any], function: str, sid: str) -> Any:
    policies = properties(template, f"{function}Role")["Policies"]
    statements = [statement for policy in policies for statement in policy["PolicyDocument"]["Statement"]]
    alternatives = [
        alternative
        for statement in statements
        for alternative in statement.get("Fn::If", [None, statement])[1:]
    ]
    [found] = [alternative for alternative in alternatives if alternative.get("Sid") == sid]
    return found


def test_the_template_has_no_problems(template: dict[str, Any]) -> None:
    assert find_problems(template) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: properties(t, "StepFunction").pop("RecursiveLoop"), "lacks `RecursiveLoop: Allow`"),
        (
            lambda t: properties(t, "StepFunction").update(RecursiveLoop="Terminate"),
            "lacks `RecursiveLoop: Allow`",
        ),
        (lambda t: properties(t, "SweepFunction").update(RecursiveLoop="Allow"), "for no reason"),
        (lambda t: properties(t, "StepQueue").pop("VisibilityTimeout"), "hides messages for 30 s"),
        (lambda t: t["Mappings"]["Seconds"]["900"].update(Visibility=5399), "hides messages for 5399 s"),
        (lambda t: properties(t, "DeadLetterFunction").update(Timeout=900), "may take 900 s"),
        (lambda t: properties(t, "StepFunctionMessages").pop("FunctionResponseTypes"), "does not report"),
        (lambda t: properties(t, "StepFunctionMessages").update(BatchSize=11), "needs a batching window"),
        (lambda t: properties(t, "StepFunctionMessages").pop("ScalingConfig"), "no maximum concurrency"),
        (lambda t: properties(t, "StepQueue").pop("RedrivePolicy"), "has no dead-letter queue"),
        (
            lambda t: properties(t, "StepQueue")["RedrivePolicy"].update(maxReceiveCount=1),
            "fewer than 5 tries",
        ),
        (lambda t: properties(t, "DeadLetterQueue").update(MessageRetentionPeriod=60), "deletes messages"),
        (lambda t: t["Resources"].pop("DeadLetterFunctionMessages"), "no function reads DeadLetterQueue"),
        (lambda t: properties(t, "StepQueue").pop("SqsManagedSseEnabled"), "StepQueue is not encrypted"),
        (lambda t: properties(t, "Table").pop("SSESpecification"), "Table is not encrypted by KmsKeyArn"),
        (
            lambda t: properties(t, "Table").update(SSESpecification={"SSEEnabled": True}),
            "pays for a key without it",
        ),
        (lambda t: properties(t, "Table").pop("DeletionProtectionEnabled"), "not protected from deletion"),
        (lambda t: t["Resources"]["StepQueue"].pop("DeletionPolicy"), "StepQueue does not state what"),
        (lambda t: t["Resources"]["ApiLogs"].pop("UpdateReplacePolicy"), "ApiLogs does not state what"),
        (
            lambda t: properties(t, "Table").pop("PointInTimeRecoverySpecification"),
            "no point-in-time recovery",
        ),
        (lambda t: properties(t, "Table").pop("TimeToLiveSpecification"), "no time to live"),
        (lambda t: properties(t, "PayloadBucket").pop("BucketEncryption"), "PayloadBucket is not encrypted"),
        (
            lambda t: properties(t, "PayloadBucket")["PublicAccessBlockConfiguration"].pop("BlockPublicAcls"),
            "made public",
        ),
        (lambda t: t["Resources"].pop("PayloadBucketPolicy"), "without encryption in transit"),
        (lambda t: t["Resources"]["Table"].pop("DeletionPolicy"), "Table is deleted with the stack"),
        (lambda t: statement(t, "ApiFunction", "Data")["Action"].append("dynamodb:*"), "may dynamodb:*"),
        (lambda t: statement(t, "ApiFunction", "Data").update(Resource="*"), 'has rights on "*"'),
        (
            lambda t: statement(t, "ApiFunction", "Messages").update(Resource="arn:aws:sqs:*:1:a"),
            "has rights on",
        ),
        (
            lambda t: statement(t, "StepFunction", "Payloads").update(NotAction="s3:GetObject"),
            "does not say what",
        ),
        (
            lambda t: properties(t, "SweepFunction").update(Role=properties(t, "StepFunction")["Role"]),
            "shares the role",
        ),
        (
            lambda t: properties(t, "SweepFunctionRole").update(
                ManagedPolicyArns=["arn:aws:iam::aws:policy/service-role/AWSLambdaVPCAccessExecutionRole"]
            ),
            "SweepFunctionRole has the managed policy",
        ),
        (
            lambda t: properties(t, "StepFunctionRole")["ManagedPolicyArns"]["Fn::If"][1].append("arn:x"),
            'StepFunctionRole has the managed policy "arn:x"',
        ),
        (lambda t: properties(t, "ApiFunctionRole").pop("PermissionsBoundary"), "lacks the permissions"),
        (
            lambda t: properties(t, "SweepFunction").update(Role="arn:aws:iam::1:role/any"),
            "SweepFunctionRole is the role of no function",
        ),
        (
            lambda t: statement(t, "StepFunction", "Interfaces")["Action"].append("ec2:RunInstances"),
            "StepFunction has rights on",
        ),
        (
            lambda t: statement(t, "StepFunction", "Interfaces").update(Resource="*"),
            'StepFunction has rights on "*"',
        ),
        (
            lambda t: statement(t, "StepFunction", "Traces").update(Action=["xray:GetTraceSummaries"]),
            'StepFunction has rights on "*"',
        ),
        (
            lambda t: statement(t, "StepFunction", "InterfacesNotForCode").pop("Condition"),
            "gives playbooks the rights",
        ),
        (
            lambda t: statement(t, "StepFunction", "InterfacesNotForCode")["Action"].pop(),
            "gives playbooks the rights",
        ),
        (
            lambda t: properties(t, "SweepFunctionRole")["Policies"][0]["PolicyDocument"]["Statement"].append(
                {"Effect": "Allow", "Action": "ec2:DescribeSubnets", "Resource": "*"}
            ),
            'SweepFunction has rights on "*"',
        ),
        (
            lambda t: statement(t, "StepFunction", "ParameterStore").update(
                Resource={"Fn::Sub": "arn:aws:ssm:us-east-1:1:parameter/${SecretsPrefix}*"}
            ),
            "may not read the parameters of the prefix /a/b/",
        ),
        (
            lambda t: statement(t, "DeadLetterFunction", "Secrets").update(
                Resource={"Fn::Sub": "arn:aws:secretsmanager:us-east-1:1:secret:x${SecretsPrefix}*"}
            ),
            "may not read the secrets of the prefix a-",
        ),
        (lambda t: variables(t, "DeadLetterFunction").pop("NOETL_ALLOW_NETWORKS"), "other settings"),
        (
            lambda t: statement(t, "DeadLetterFunction", "Payloads")["Action"].pop(),
            "has other rights than StepFunction",
        ),
        (lambda t: t["Parameters"]["Authentication"].update(Default="api-keys"), "must be chosen"),
        (lambda t: t["Parameters"]["Authentication"]["AllowedValues"].append("none"), "must be chosen"),
        (lambda t: t["Rules"].clear(), "tokens are accepted without `JwtIssuer`"),
        (
            lambda t: t["Rules"]["TokensNeedAnIssuer"]["Assertions"].pop(),
            "tokens are accepted without `JwtAudience`",
        ),
        (
            lambda t: t["Rules"].pop("SubnetsNeedSecurityGroups"),
            "`SubnetIds` is accepted without `SecurityGroupIds`",
        ),
        (
            lambda t: t["Rules"].pop("SecurityGroupsNeedSubnets"),
            "`SecurityGroupIds` is accepted without `SubnetIds`",
        ),
        (lambda t: t["Rules"].pop("DomainNeedsCertificate"), "`DomainName` is accepted without"),
        (lambda t: t["Rules"].pop("CertificateNeedsDomain"), "`CertificateArn` is accepted without"),
        (
            lambda t: t["Rules"].pop("ConnectionsFor20"),
            "100 batches may need 420 connections, but the database has 100",
        ),
        (
            lambda t: t["Mappings"]["Requests"]["250"].update(WithTriggers=35),
            "50 batches may need 251 connections, but the database has 250",
        ),
        (lambda t: t["Resources"].pop("EventDeadLettersAlarm"), "no alarm reports its messages"),
        (lambda t: t["Resources"].pop("TriggerErrorsAlarm"), "no alarm for Errors of TriggerFunction"),
        (
            lambda t: properties(t, "EventQueuePolicy")["PolicyDocument"]["Statement"][0].pop("Condition"),
            "EventQueuePolicy allows other senders",
        ),
        (
            lambda t: properties(t, "EventQueuePolicy")["PolicyDocument"]["Statement"][0].update(
                Principal="*"
            ),
            "EventQueuePolicy allows other senders",
        ),
        (
            lambda t: properties(t, "EventQueue").update(VisibilityTimeout=100),
            "EventQueue hides messages for 100 s, but TriggerFunction may take 30 s",
        ),
        (
            lambda t: t["Mappings"]["Requests"]["250"].update(Concurrency=39),
            "50 batches may need 251 connections, but the database has 250",
        ),
        (
            lambda t: properties(t, "ApiFunction").pop("ReservedConcurrentExecutions"),
            "requests may use all connections",
        ),
        (lambda t: properties(t, "ApiRoute").pop("AuthorizerId"), "the gateway does not check tokens"),
        (
            lambda t: t["Conditions"].update(HasAuthorizer=t["Conditions"]["HasIssuer"]),
            "the gateway does not check tokens",
        ),
        (
            lambda t: properties(t, "ApiAuthorizer")["JwtConfiguration"].update(Audience=["*"]),
            "the gateway does not check tokens",
        ),
        (lambda t: t["Resources"].pop("EventsRoute"), "tokens are required for GET /workflows/"),
        (
            lambda t: properties(t, "HealthRoute").update(Target="integrations/another"),
            "GET /healthz is a route outside of the application",
        ),
        (lambda t: properties(t, "ApiStage").pop("RouteSettings"), "no throttle of its own for POST"),
        (lambda t: variables(t, "ApiFunction").pop("NOETL_JWT_AUDIENCE"), "lacks the setting of JwtAudience"),
        (lambda t: variables(t, "StepFunction").update(NOETL_ALLOW_SHELL="1"), "NOETL_ALLOW_SHELL"),
        (
            lambda t: variables(t, "ApiFunction").pop("NOETL_ALLOW_ACTIONS"),
            "lacks the setting of AllowedActions",
        ),
        (
            lambda t: variables(t, "ApiFunction").pop("NOETL_SECRETS_HOSTS"),
            "lacks the setting of SecretsHosts",
        ),
        (
            lambda t: variables(t, "SweepFunction").pop("NOETL_RETENTION_DAYS"),
            "lacks the setting of RetentionDays",
        ),
        (
            lambda t: variables(t, "StepFunction").pop("NOETL_KEEP_INPUTS"),
            "lacks the setting of KeepInputs",
        ),
        (
            lambda t: t["Resources"]["PayloadBucket"].pop("Condition"),
            "PayloadBucket is created although runs are stored in Postgres",
        ),
        (
            lambda t: t["Resources"]["Table"].update(Condition="InDynamo"),
            "Table is created although runs are stored in Postgres, or in an existing one",
        ),
        (
            lambda t: variables(t, "SweepFunction").update(NOETL_STORE="x"),
            "SweepFunction lacks the setting of the store",
        ),
        (
            lambda t: statement(t, "ApiFunction", "Address").update(Resource="arn:aws:x"),
            "ApiFunction may not read the address",
        ),
        (
            lambda t: properties(t, "ApiRoute").update(RouteKey="GET /open"),
            "a route outside of the application",
        ),
        (lambda t: properties(t, "ApiFunction").update(Timeout=60), "may take 60 s"),
        (lambda t: properties(t, "ApiFunction").update(Timeout=10), "may take 10 s"),
        (
            lambda t: properties(t, "ApiIntegration").update(PayloadFormatVersion="1.0"),
            "payloads of format 2.0",
        ),
        (lambda t: properties(t, "ApiStage").pop("DefaultRouteSettings"), "any number of requests"),
        (
            lambda t: properties(t, "ApiStage")["AccessLogSettings"].update(Format="$context.path"),
            "logs paths",
        ),
        (lambda t: properties(t, "StepLogs").pop("RetentionInDays"), "StepFunction keeps its logs forever"),
        (lambda t: properties(t, "ApiFunction").pop("LoggingConfig"), "ApiFunction keeps its logs forever"),
        (
            lambda t: (t["Resources"].pop("ThrottlesAlarm"), t["Resources"].pop("ApiThrottlesAlarm")),
            "no alarm for Throttles of AWS/Lambda",
        ),
        (lambda t: t["Resources"].pop("ApiThrottlesAlarm"), "no alarm for Throttles of ApiFunction"),
        (lambda t: t["Resources"].pop("DeadLetterErrorsAlarm"), "no alarm for Errors of DeadLetterFunction"),
        (lambda t: t["Resources"].pop("WriteThrottlesAlarm"), "no alarm for WriteThrottleEvents"),
        (
            lambda t: properties(t, "OldestMessageAlarm").update(Threshold=300),
            "raised after 300 s, but messages may be 915 s old",
        ),
        (lambda t: properties(t, "GivenUpAlarm").pop("AlarmActions"), "has no action"),
        (lambda t: properties(t, "Table")["KeySchema"].reverse(), "another KeySchema"),
    ],
)
def test_each_check_finds_its_problem(template: dict[str, Any], change: Change, message: str) -> None:
    changed = copy.deepcopy(template)
    change(changed)
    problems = find_problems(changed)
    assert any(message in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("parameters", "broken_count"),
    [
        ({"Authentication": "api-keys"}, 0),
        ({"Authentication": "jwt"}, 2),
        ({"Authentication": "jwt", "JwtIssuer": "https://issuer.test"}, 1),
        ({"Authentication": "jwt", "JwtIssuer": "https://issuer.test", "JwtAudience": "noetl"}, 0),
        ({"Authentication": "jwt-and-api-keys"}, 2),
        ({"Authentication": "api-keys", "DatabaseSecretArn": "arn"}, 1),
        ({"Authentication": "api-keys", "DatabaseSecretArn": "arn", "MaximumConcurrency": "20"}, 0),
        ({"Authentication": "api-keys", "DatabaseSecretArn": "arn", "DatabaseConnections": "500"}, 0),
        (
            {
                "Authentication": "api-keys",
                "DatabaseSecretArn": "arn",
                "DatabaseConnections": "500",
                "MaximumConcurrency": "200",
            },
            1,
        ),
        (
            {
                "Authentication": "api-keys",
                "DatabaseSecretArn": "arn",
                "MaximumConcurrency": "10",
                "ExistingTableName": "runs",
                "ExistingBucketName": "runs",
            },
            2,
        ),
        ({"Authentication": "api-keys", "DomainName": "runs.example.com"}, 1),
        ({"Authentication": "api-keys", "SubnetIds": "subnet-1,subnet-2"}, 1),
        ({"Authentication": "api-keys", "SecurityGroupIds": "sg-1"}, 1),
        ({"Authentication": "api-keys", "SubnetIds": "subnet-1,subnet-2", "SecurityGroupIds": "sg-1"}, 0),
    ],
)
def test_rules_refuse_incomplete_deployments(
    template: dict[str, Any], parameters: dict[str, str], broken_count: int
) -> None:
    defaults = {name: parameter.get("Default") for name, parameter in template["Parameters"].items()}
    assert len(broken_rules(template, defaults | parameters)) == broken_count


@pytest.mark.timeout(300)
@pytest.mark.parametrize("path", [TEMPLATE, ROOT / "infra" / "dashboard.yaml"], ids=lambda path: path.name)
def test_the_linter_finds_nothing(path: Any) -> None:
    sam = tool_environment(SAM) / "bin" / "sam"
    command = [sam, "validate", "--lint", "--region", "us-east-1", "--template", path]
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(ROOT / ".venv"), "SAM_CLI_TELEMETRY": "0"}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environ)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("function", ["StepFunction", "DeadLetterFunction", "SweepFunction", "ApiFunction"])
def test_functions_can_see_that_a_payload_does_not_exist(template: dict[str, Any], function: str) -> None:
    # Otherwise S3 refuses to read a missing object as if rights were missing.
    objects, listed = statement(template, function, "Payloads"), statement(template, function, "Missing")
    assert listed["Action"] == "s3:ListBucket"
    assert "PayloadBucket" in json.dumps(objects["Resource"]) and "PayloadBucket" in json.dumps(
        listed["Resource"]
    )


def test_only_functions_that_delete_runs_may_delete_values(template: dict[str, Any]) -> None:
    for function in ("SweepFunction", "ApiFunction"):
        assert statement(template, function, "Deletions")["Action"] == "s3:DeleteObject"
        written = statement(template, function, "Payloads")["Resource"]
        assert statement(template, function, "Deletions")["Resource"] == written
        assert {"dynamodb:Query", "dynamodb:BatchWriteItem", "dynamodb:DeleteItem"} <= set(
            statement(template, function, "Data")["Action"]
        )
    for function in ("StepFunction", "DeadLetterFunction"):
        role = template["Resources"][template["Resources"][function]["Properties"]["Role"]["Fn::GetAtt"][0]]
        assert "s3:DeleteObject" not in json.dumps(role)


def test_the_output_of_a_stack_gives_the_parameters_of_its_dashboard(template: dict[str, Any]) -> None:
    text = (ROOT / "infra" / "dashboard.yaml").read_text("utf-8")
    names = re.findall(r"^  (\w+): \{Type: String", text, re.MULTILINE)
    given = json.dumps(template["Outputs"]["DashboardParameters"])
    assert len(names) == 9
    assert sorted(set(re.findall(r"(\w+)=", given))) == sorted(names)


def test_the_dashboard_shows_every_metric_with_an_alarm(template: dict[str, Any]) -> None:
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


def test_routes_without_a_token_are_those_that_the_application_serves_without_one() -> None:
    routes = {
        f"{method} {route.path.replace(':path}', '+}')}"
        for router in find_routers()
        for route in router.routes
        if isinstance(route, APIRoute) and isinstance(declared_access(route), PublicAccess | StreamAccess)
        for method in route.methods or ()
    }
    assert {*PUBLIC_ROUTES} - {"OPTIONS /{proxy+}"} == routes
