"""Checks of `template.yaml`, as AWS sees it after the SAM transform.

    python -m noetl.infra.checks [template.yaml]

Each check yields the problems that it finds. AWS refuses some of them at deployment. It shows others only
under load, and it accepts a few silently.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = ROOT / "template.yaml"

VISIBILITY_FACTOR = 6
"""Visibility timeout of a queue, as a multiple of the timeout of its function. AWS recommends six."""

MAX_GATEWAY_SECONDS = 30
MAX_RETENTION_SECONDS = 14 * 24 * 3600
MIN_RECEIVES = 5
API_HANDLER_PREFIX = "noetl.api."
REQUIRED_ALARMS = {
    ("NoETL", "GivenUp"),
    ("NoETL", "StoreFailures"),
    ("AWS/SQS", "ApproximateAgeOfOldestMessage"),
    ("AWS/Lambda", "Errors"),
    ("AWS/Lambda", "Throttles"),
    ("AWS/ApiGateway", "5xx"),
    ("AWS/DynamoDB", "ReadThrottleEvents"),
    ("AWS/DynamoDB", "WriteThrottleEvents"),
}
ALARMED_FUNCTION_METRICS = {
    ("Errors", "StepFunction"),
    ("Errors", "DeadLetterFunction"),
    ("Errors", "SweepFunction"),
    ("Errors", "TriggerFunction"),
    ("Throttles", "StepFunction"),
    ("Throttles", "ApiFunction"),
}
MAX_DELAY_SECONDS = 15 * 60
"""Time for which SQS holds a message back, at most."""

CONNECTIONS_PER_BATCH = 4
OTHER_BATCHES = 3
"""Batches that use the database in addition to those of the queue: two of dead letters, and the sweep."""

TRIGGER_CONNECTIONS = 4
"""Invocations that fire triggers, two for each of their queues. Each uses one connection."""

OWN_SIDS = ("Logs", "OwnQueue")
"""Statements about what belongs to one function, so that they differ between functions."""

INTERFACE_ACTIONS = frozenset(
    {
        "ec2:AssignPrivateIpAddresses",
        "ec2:CreateNetworkInterface",
        "ec2:DeleteNetworkInterface",
        "ec2:UnassignPrivateIpAddresses",
    }
)
"""Actions with which Lambda connects a function to a VPC. AWS requires them for the account's interfaces."""

ACTIONS_WITHOUT_RESOURCES = {
    "ec2:DescribeNetworkInterfaces": "IsInVpc",
    "ec2:DescribeSubnets": "IsInVpc",
    "xray:PutTelemetryRecords": "IsTraced",
    "xray:PutTraceSegments": "IsTraced",
}
"""Actions that AWS grants only for all resources, with the condition under which a function needs them."""

CALLBACK_ROUTES = (
    "GET /workflows/callbacks/{token}",
    "POST /workflows/callbacks/{token}",
    "POST /workflows/callbacks/{token}/heartbeat",
    "POST /hooks/{tenant}/{path+}",
    "PUT /hooks/{tenant}/{path+}",
)
PUBLIC_ROUTES = (
    *CALLBACK_ROUTES,
    "GET /workflows/{workflow_id}/events",
    "GET /healthz",
    "GET /readyz",
    "GET /openapi.json",
    "GET /docs",
    "GET /redoc",
    "GET /docs/assets/{name}",
    "GET /",
    "GET /ui",
    "GET /ui/files/{name}",
    "GET /ui/{address+}",
    "OPTIONS /{proxy+}",
)
"""Routes that need no token: public ones, and that of events, which a ticket opens too."""

PARAMETER_PAIRS = (
    ("SubnetIds", "subnet-1", "SecurityGroupIds", "sg-1"),
    ("DomainName", "runs.example.com", "CertificateArn", "arn:aws:acm:us-east-1:1:certificate/1"),
)
"""Parameters that are required together, with examples. AWS refuses one of them late, in a partial stack."""
AUTHENTICATIONS = ["api-keys", "jwt", "jwt-and-api-keys"]
COMMON_SETTINGS = {
    "NOETL_ALLOW_ACTIONS": "AllowedActions",
    "NOETL_KEEP_INPUTS": "KeepInputs",
    "NOETL_RETENTION_DAYS": "RetentionDays",
}
CHANNEL_SETTINGS = {"NOETL_ALLOW_NETWORKS": "AllowedNetworks", "NOETL_SECRETS_HOSTS": "SecretsHosts"}
"""The settings of a function that sends a test message to a channel."""

ISSUER_SETTINGS = {"NOETL_JWT_ISSUER": "JwtIssuer", "NOETL_JWT_AUDIENCE": "JwtAudience"}
FORBIDDEN_SETTINGS = ("NOETL_ALLOW_SHELL", "NOETL_FILES_ROOT")
PUBLIC_ACCESS_BLOCKS = ("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets")
TABLE_PROPERTIES = ("KeySchema", "AttributeDefinitions", "GlobalSecondaryIndexes", "BillingMode")

Template = Mapping[str, Any]


def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else TEMPLATE
    problems = find_problems(transform_template(path))
    for problem in problems:
        print(problem)
    sys.exit(bool(problems))


def transform_template(path: Path = TEMPLATE) -> dict[str, Any]:
    """Return the SAM template at `path` as a template of CloudFormation."""
    os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")  # The checks do not depend on the region.
    from samtranslator.translator.transform import transform
    from samtranslator.yaml_helper import yaml_parse

    class EmptyPolicyLoader:
        def load(self) -> dict[str, str]:
            return {}

    source = yaml_parse(path.read_text("utf-8"))
    for resource in source["Resources"].values():
        if resource["Type"] == "AWS::Serverless::Function":
            # At deployment, the package of a function is in a bucket.
            resource["Properties"]["CodeUri"] = "s3://bucket/package"
    source.get("Globals", {}).get("Function", {}).pop("CodeUri", None)
    result: dict[str, Any] = transform(source, {}, EmptyPolicyLoader())
    result["Rules"] = source.get("Rules", {})
    template: dict[str, Any] = json.loads(json.dumps(result))
    return template


def find_problems(template: Template) -> list[str]:
    """Return the problems that all checks find."""
    return [problem for check in CHECKS for problem in check(template)]


def check_recursive_loops(template: Template) -> Iterator[str]:
    """Yield functions that send to their own queue but must not.

    Lambda stops such a function after about 16 rounds, unless `RecursiveLoop` allows it.
    """
    for name, function in _resources(template, "AWS::Lambda::Function"):
        own_queues = {_name_of(mapping["EventSourceArn"]) for mapping in _mappings(template, name)}
        target_queues = {
            _name_of(resource)
            for statement in _statements_of(template, function)
            if "sqs:SendMessage" in _as_list(statement["Action"])
            for resource in _as_list(statement["Resource"])
        }
        is_allowed = function.get("RecursiveLoop") == "Allow"
        if own_queues & target_queues and not is_allowed:
            yield f"{name} sends to its own queue, but lacks `RecursiveLoop: Allow`"
        if is_allowed and not own_queues & target_queues:
            yield f"{name} has `RecursiveLoop: Allow` for no reason"


def check_visibility_timeouts(template: Template) -> Iterator[str]:
    """Yield queues that deliver a message again while an invocation still processes it.

    A queue of a parameter is not known here. AWS refuses it if it hides messages for less than an invocation.
    """
    for mapping in _mappings(template):
        if mapping["EventSourceArn"].get("Ref") in template["Parameters"]:
            continue
        queue = _queue_of(template, mapping)
        function = _properties(template, _name_of(mapping["FunctionName"]))
        queue_name, function_name = _name_of(mapping["EventSourceArn"]), _name_of(mapping["FunctionName"])
        function_timeout, queue_timeout = function.get("Timeout", 3), queue.get("VisibilityTimeout", 30)
        for parameters in _parameter_choices(template, function_timeout, queue_timeout):
            timeout = int(_evaluate(template, function_timeout, parameters))
            visibility = int(_evaluate(template, queue_timeout, parameters))
            if visibility < VISIBILITY_FACTOR * timeout:
                yield (
                    f"{queue_name} hides messages for {visibility} s, but {function_name} may take"
                    f" {timeout} s: at least {VISIBILITY_FACTOR} times that is required"
                )


def check_batches(template: Template) -> Iterator[str]:
    """Yield event sources that repeat a whole batch for one failed message, or whose batches are invalid."""
    for mapping in _mappings(template):
        name = _name_of(mapping["FunctionName"])
        if mapping.get("FunctionResponseTypes") != ["ReportBatchItemFailures"]:
            yield f"{name} does not report which messages of a batch failed"
        if mapping.get("BatchSize", 10) > 10 and not mapping.get("MaximumBatchingWindowInSeconds"):
            yield f"{name} has a batch size above 10, which needs a batching window"
        if "MaximumConcurrency" not in mapping.get("ScalingConfig", {}):
            yield f"{name} has no maximum concurrency: it may use up the concurrency of the account"


def check_dead_letters(template: Template) -> Iterator[str]:
    """Yield queues whose messages may be lost, so that their runs would never end."""
    sources = {_name_of(mapping["EventSourceArn"]) for mapping in _mappings(template)}
    dead_letter_queues: set[str] = set()
    for name, queue in _resources(template, "AWS::SQS::Queue"):
        redrive = queue.get("RedrivePolicy")
        if redrive is not None:
            dead_letter_queues.add(_name_of(redrive["deadLetterTargetArn"]))
            if redrive.get("maxReceiveCount", 0) < MIN_RECEIVES:
                yield f"{name} gives messages up after fewer than {MIN_RECEIVES} tries"
    for name, queue in _resources(template, "AWS::SQS::Queue"):
        if "RedrivePolicy" not in queue and name not in dead_letter_queues:
            yield f"{name} has no dead-letter queue"
        if name in dead_letter_queues and name not in {*sources, *_inspected_queues(template)}:
            yield f"no function reads {name}, and no alarm reports its messages"
        if queue.get("MessageRetentionPeriod", 0) < MAX_RETENTION_SECONDS:
            yield f"{name} deletes messages before the longest possible time"
    if not dead_letter_queues:
        yield "there is no dead-letter queue"


def _inspected_queues(template: Template) -> set[str]:
    """Return the names of the queues with an alarm for each message."""
    return {
        _name_of(alarm["Dimensions"][0]["Value"])
        for _, alarm in _resources(template, "AWS::CloudWatch::Alarm")
        if alarm["MetricName"] == "ApproximateNumberOfMessagesVisible" and alarm["Threshold"] == 0
    }


def check_queue_policies(template: Template) -> Iterator[str]:
    """Yield queues that others than the rules of the stack may send events to."""
    rules = {name for name, _ in _resources(template, "AWS::Events::Rule")}
    for name, policy in _resources(template, "AWS::SQS::QueuePolicy"):
        for statement in policy["PolicyDocument"]["Statement"]:
            sources = statement.get("Condition", {}).get("ArnEquals", {}).get("aws:SourceArn", [])
            senders = {_name_of(source) for source in _alternatives(sources)} - {"AWS::NoValue"}
            if (
                statement["Principal"] != {"Service": "events.amazonaws.com"}
                or not senders <= rules
                or not senders
            ):
                yield f"{name} allows other senders than the rules of the stack"


def check_data_protection(template: Template) -> Iterator[str]:
    """Yield stores that are not encrypted, recoverable, private and retained."""
    for name, queue in _resources(template, "AWS::SQS::Queue"):
        if not (queue.get("SqsManagedSseEnabled") or queue.get("KmsMasterKeyId")):
            yield f"{name} is not encrypted"
    for name, table in _resources(template, "AWS::DynamoDB::Table"):
        # Without a key of the customer, DynamoDB encrypts at no cost. A key of AWS KMS costs per request.
        _, own_key, other = table.get("SSESpecification", {}).get("Fn::If", (None, {}, {}))
        if own_key.get("KMSMasterKeyId") != {"Ref": "KmsKeyArn"} or "SSEEnabled" in other:
            yield f"{name} is not encrypted by KmsKeyArn, or pays for a key without it"
        if table.get("DeletionProtectionEnabled") != {"Ref": "DeletionProtection"}:
            yield f"{name} is not protected from deletion"
        if not table.get("PointInTimeRecoverySpecification", {}).get("PointInTimeRecoveryEnabled"):
            yield f"{name} has no point-in-time recovery"
        if table.get("TimeToLiveSpecification", {}).get("Enabled") is not True:
            yield f"{name} has no time to live"


def check_buckets(template: Template) -> Iterator[str]:
    """Yield buckets that are not encrypted, or that may be public or read without TLS."""
    policies = [policy for _, policy in _resources(template, "AWS::S3::BucketPolicy")]
    for name, bucket in _resources(template, "AWS::S3::Bucket"):
        if not bucket.get("BucketEncryption"):
            yield f"{name} is not encrypted"
        configuration = bucket.get("PublicAccessBlockConfiguration", {})
        if not all(configuration.get(block) for block in PUBLIC_ACCESS_BLOCKS):
            yield f"{name} may be made public"
        if not any(_denies_plain_http(policy, name) for policy in policies):
            yield f"{name} may be read without encryption in transit"


def check_retention(template: Template) -> Iterator[str]:
    """Yield stores that are deleted with the stack, and other data whose deletion is not stated."""
    for name, resource in template["Resources"].items():
        policies = (resource.get("DeletionPolicy"), resource.get("UpdateReplacePolicy"))
        is_store = resource["Type"] in ("AWS::DynamoDB::Table", "AWS::S3::Bucket")
        if is_store and policies != ("Retain", "Retain"):
            yield f"{name} is deleted with the stack"
        is_stated = None not in policies
        if resource["Type"] in ("AWS::SQS::Queue", "AWS::Logs::LogGroup") and not is_stated:
            yield f"{name} does not state what is deleted with the stack"


def check_roles(template: Template) -> Iterator[str]:
    """Yield functions without a role of their own, and roles with rights that the template does not show.

    The SAM transform creates a missing role, and attaches policies that AWS manages and that have wildcards.
    """
    roles: set[str] = set()
    for name, function in _resources(template, "AWS::Lambda::Function"):
        role = _name_of(function["Role"])
        if role in roles:
            yield f"{name} shares the role {role}"
        roles.add(role)
    for name, role_properties in _resources(template, "AWS::IAM::Role"):
        if name not in roles:
            yield f"{name} is the role of no function"
        for policy in _alternatives(role_properties.get("ManagedPolicyArns", [])):
            if policy not in ({"Ref": "ActionsPolicyArn"}, {"Ref": "AWS::NoValue"}):
                yield f"{name} has the managed policy {json.dumps(policy)}"
        if role_properties.get("PermissionsBoundary", {}).get("Fn::If", [None, None])[1] != {
            "Ref": "PermissionsBoundaryArn"
        }:
            yield f"{name} lacks the permissions boundary"


def check_permissions(template: Template) -> Iterator[str]:
    """Yield wildcards in the permissions of functions."""
    for name, function in _resources(template, "AWS::Lambda::Function"):
        for condition, statement in _conditional_statements(template, function):
            yield from (f"{name} {problem}" for problem in _find_wildcards(condition, statement))
        denied = {
            action
            for statement in _statements_of(template, function)
            if _applies_to_code_only(statement)
            for action in statement["Action"]
        }
        if not {*INTERFACE_ACTIONS, "ec2:DescribeNetworkInterfaces", "ec2:DescribeSubnets"} <= denied:
            yield f"{name} gives playbooks the rights with which Lambda manages network interfaces"


def _find_wildcards(condition: str | None, statement: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a statement allows without need. `condition` is the one under which it is in effect."""
    if _applies_to_code_only(statement):
        return
    if statement.get("Effect") != "Allow" or "NotAction" in statement or "NotResource" in statement:
        yield "has a statement that does not say what is allowed"
        return
    actions, resources = _as_list(statement["Action"]), list(_alternatives(statement["Resource"]))
    yield from (f"may {action}" for action in actions if "*" in action)
    if condition == "IsInVpc" and INTERFACE_ACTIONS.issuperset(actions):
        account = "arn:${AWS::Partition}:ec2:${AWS::Region}:${AWS::AccountId}:*/*"
        resources = [resource for resource in resources if resource != {"Fn::Sub": account}]
    elif all(ACTIONS_WITHOUT_RESOURCES.get(action, "") == condition for action in actions):
        resources = [resource for resource in resources if resource != "*"]
    for resource in resources:
        if not _is_specific(resource):
            yield f"has rights on {json.dumps(resource)}"


def _applies_to_code_only(statement: Mapping[str, Any]) -> bool:
    """Return whether a statement denies the requests of a function's code, and not those of Lambda itself."""
    has_source = {"Null": {"lambda:SourceFunctionArn": "false"}}
    return statement.get("Effect") == "Deny" and statement.get("Condition") == has_source


def check_dead_letter_functions(template: Template) -> Iterator[str]:
    """Yield functions of dead-letter queues that differ from the function of the queue.

    Such a function fails the visit. Then it executes the steps that the playbook continues with, so it
    needs the same settings and rights.
    """
    readers = {
        _name_of(mapping["EventSourceArn"]): _name_of(mapping["FunctionName"])
        for mapping in _mappings(template)
    }
    for queue, name in readers.items():
        redrive = _properties(template, queue).get("RedrivePolicy", {})
        dead_letter_queue = _name_of(redrive.get("deadLetterTargetArn"))
        if dead_letter_queue in readers:
            dead_letter_name = readers[dead_letter_queue]
            function, dead_letter_function = (
                _properties(template, function_name) for function_name in (name, dead_letter_name)
            )
            if function.get("Environment") != dead_letter_function.get("Environment"):
                yield f"{dead_letter_name} has other settings than {name}"
            rights, dead_letter_rights = (
                [
                    statement
                    for statement in _statements_of(template, properties)
                    if statement.get("Sid") not in OWN_SIDS
                ]
                for properties in (function, dead_letter_function)
            )
            if rights != dead_letter_rights:
                yield f"{dead_letter_name} has other rights than {name}"


def check_authentication(template: Template) -> Iterator[str]:
    """Yield ways to deploy a service that serves callers without authentication."""
    parameter = template["Parameters"].get("Authentication", {})
    if "Default" in parameter or parameter.get("AllowedValues") != AUTHENTICATIONS:
        yield f"`Authentication` must be chosen at deployment, from {', '.join(AUTHENTICATIONS)}"
    complete = _default_parameters(template) | {
        "Authentication": "jwt",
        "JwtIssuer": "https://issuer.test",
        "JwtAudience": "noetl",
    }
    for name in ISSUER_SETTINGS.values():
        if not broken_rules(template, complete | {name: ""}):
            yield f"tokens are accepted without `{name}`"


def check_routes(template: Template) -> Iterator[str]:
    """Yield routes that lead past the application or its authentication, and callbacks without a throttle.

    With tokens alone, the gateway checks them before a function is invoked.
    """
    [(api_function, _)] = [
        (name, function)
        for name, function in _resources(template, "AWS::Lambda::Function")
        if function["Handler"].startswith(API_HANDLER_PREFIX)
    ]
    integrations = [
        name
        for name, integration in _resources(template, "AWS::ApiGatewayV2::Integration")
        if _name_of(integration["IntegrationUri"]) == api_function
    ]
    routes = {route["RouteKey"]: route for _, route in _resources(template, "AWS::ApiGatewayV2::Route")}
    for key, route in routes.items():
        if key not in ("$default", *PUBLIC_ROUTES) or route["Target"] not in [
            {"Fn::Sub": f"integrations/${{{name}}}"} for name in integrations
        ]:
            yield f"{key} is a route outside of the application"
    yield from (f"tokens are required for {key}" for key in PUBLIC_ROUTES if key not in routes)
    authorizer = routes.get("$default", {}).get("AuthorizerId", {}).get("Fn::If", (None, {}))
    properties = _properties(template, _name_of(authorizer[1]))
    condition = template["Conditions"].get(authorizer[0])
    configuration = {"Issuer": {"Ref": "JwtIssuer"}, "Audience": [{"Ref": "JwtAudience"}]}
    is_for_tokens = condition is not None and [
        _evaluate(template, condition, {"Authentication": choice}) for choice in AUTHENTICATIONS
    ] == [False, True, False]
    if not is_for_tokens or properties.get("JwtConfiguration") != configuration:
        yield "the gateway does not check tokens where `Authentication` is `jwt`"
    for name, stage in _resources(template, "AWS::ApiGatewayV2::Stage"):
        settings = stage.get("RouteSettings", {})
        for key in CALLBACK_ROUTES:
            if settings.get(key, {}).get("ThrottlingRateLimit") != {"Ref": "CallbacksPerSecond"}:
                yield f"{name} has no throttle of its own for {key}"


def check_settings(template: Template) -> Iterator[str]:
    """Yield functions with a forbidden setting, or without the setting of a parameter."""
    for name, function in _resources(template, "AWS::Lambda::Function"):
        variables = function.get("Environment", {}).get("Variables", {})
        for setting in FORBIDDEN_SETTINGS:
            if setting in variables:
                yield f"{name} has the setting {setting}"
        for setting, parameter in COMMON_SETTINGS.items():
            if variables.get(setting) != {"Ref": parameter}:
                yield f"{name} lacks the setting of {parameter}"
        if function["Handler"].startswith(API_HANDLER_PREFIX):
            for setting, parameter in CHANNEL_SETTINGS.items():
                if variables.get(setting) != {"Ref": parameter}:
                    yield f"{name} lacks the setting of {parameter}"
            for setting, parameter in ISSUER_SETTINGS.items():
                if variables.get(setting, {}).get("Fn::If", [None, None])[1] != {"Ref": parameter}:
                    yield f"{name} lacks the setting of {parameter}"


def check_secrets(template: Template) -> Iterator[str]:
    """Yield rights on other secrets than those with the prefix.

    In the parameter store, names with a slash begin with one. The names of its resources have no second one.
    """
    for name, function in _resources(template, "AWS::Lambda::Function"):
        if "NOETL_SECRETS_PREFIX" not in function["Environment"]["Variables"]:
            continue
        resources = {
            statement["Sid"]: statement["Resource"]
            for statement in _statements_of(template, function)
            if statement.get("Sid") in ("Secrets", "ParameterStore")
        }
        for prefix, parameter in (("/a/b/", "a/b/"), ("a/b/", "a/b/"), ("a-", "a-")):
            parameters = {"SecretsPrefix": prefix}
            allowed = {sid: _evaluate(template, text, parameters) for sid, text in resources.items()}
            if not allowed.get("Secrets", "").endswith(f":secret:{prefix}*"):
                yield f"{name} may not read the secrets of the prefix {prefix} in Secrets Manager"
            if not allowed.get("ParameterStore", "").endswith(f":parameter/{parameter}*"):
                yield f"{name} may not read the parameters of the prefix {prefix} in Systems Manager"


def check_parameter_pairs(template: Template) -> Iterator[str]:
    """Yield parameters that are accepted without those that they need."""
    complete = _default_parameters(template) | {"Authentication": "api-keys"}
    for first, first_value, second, second_value in PARAMETER_PAIRS:
        for present, value, missing in ((first, first_value, second), (second, second_value, first)):
            if not broken_rules(template, complete | {present: value, missing: ""}):
                yield f"`{present}` is accepted without `{missing}`"


def check_connections(template: Template) -> Iterator[str]:
    """Yield a concurrency that is accepted although the database has too few connections for it."""
    [requests] = [
        function.get("ReservedConcurrentExecutions", {}).get("Fn::If", (None, {}))[1]
        for _, function in _resources(template, "AWS::Lambda::Function")
        if function["Handler"].startswith(API_HANDLER_PREFIX)
    ]
    reserved = requests.get("Fn::If", (None, None))[1]
    if reserved is None:
        yield "requests may use all connections of the database, and all invocations of the account"
        return
    complete = _default_parameters(template) | {"Authentication": "api-keys", "DatabaseSecretArn": "arn"}
    limits = ("DatabaseConnections", "MaximumConcurrency")
    _, with_triggers, without_triggers = reserved["Fn::If"]
    for parameters in _parameter_choices(template, *({"Ref": name} for name in limits)):
        connections, concurrency = (int(parameters[name]) for name in limits)
        most = CONNECTIONS_PER_BATCH * (concurrency + OTHER_BATCHES)
        most += max(
            int(_evaluate(template, with_triggers, parameters)) + TRIGGER_CONNECTIONS,
            int(_evaluate(template, without_triggers, parameters)),
        )
        if most > connections and not broken_rules(template, complete | parameters):
            yield f"{concurrency} batches may need {most} connections, but the database has {connections}"


def broken_rules(template: Template, parameters: Mapping[str, Any]) -> list[str]:
    """Return the messages of the template's rules that refuse a deployment with these parameters."""
    messages = []
    for rule in template["Rules"].values():
        if "RuleCondition" in rule and not _evaluate(template, rule["RuleCondition"], parameters):
            continue
        messages += [
            assertion["AssertDescription"]
            for assertion in rule["Assertions"]
            if not _evaluate(template, assertion["Assert"], parameters)
        ]
    return messages


def check_store_choice(template: Template) -> Iterator[str]:
    """Yield resources and functions that do not follow the choice of the store.

    Runs are stored in a table and a bucket, or in a Postgres database whose address is in a secret. A table
    or bucket of that name is not created.
    """
    for name, resource in template["Resources"].items():
        is_store = resource["Type"] in (
            "AWS::DynamoDB::Table",
            "AWS::S3::Bucket",
            "AWS::S3::BucketPolicy",
        )
        if is_store and not _is_only_for_dynamodb(template, resource):
            yield f"{name} is created although runs are stored in Postgres, or in an existing one"
    secret = {"Ref": "DatabaseSecretArn"}
    for name, function in _resources(template, "AWS::Lambda::Function"):
        store = function["Environment"]["Variables"].get("NOETL_STORE")
        if not isinstance(store, dict) or secret not in store.get("Fn::If", ()):
            yield f"{name} lacks the setting of the store"
        if not any(
            statement["Action"] == "secretsmanager:GetSecretValue" and statement["Resource"] == secret
            for statement in _statements_of(template, function)
        ):
            yield f"{name} may not read the address of the database"


def _is_only_for_dynamodb(template: Template, resource: Mapping[str, Any]) -> bool:
    """Return whether a resource is created exactly if no database and none of its kind is given."""
    condition = template["Conditions"].get(resource.get("Condition"))
    is_table = resource["Type"] == "AWS::DynamoDB::Table"
    existing = "ExistingTableName" if is_table else "ExistingBucketName"
    return condition is not None and [
        _evaluate(template, condition, {"DatabaseSecretArn": secret, existing: name})
        for secret, name in (("", ""), ("arn", ""), ("", "runs"))
    ] == [True, False, False]


def check_api(template: Template) -> Iterator[str]:
    """Yield problems of the gateway: timeouts in the wrong order, no throttling, tokens in logs.

    The gateway gives a request up after 30 seconds, so the function must answer before.
    """
    for name, integration in _resources(template, "AWS::ApiGatewayV2::Integration"):
        if integration.get("PayloadFormatVersion") != "2.0":
            yield f"{name} does not use payloads of format 2.0"
        seconds = integration.get("TimeoutInMillis", 30_000) / 1000
        function = _properties(template, _name_of(integration["IntegrationUri"]))
        if not 25 < function["Timeout"] < seconds <= MAX_GATEWAY_SECONDS:
            yield f"{name} waits {seconds:g} s for a function that may take {function['Timeout']} s"
    for name, stage in _resources(template, "AWS::ApiGatewayV2::Stage"):
        if not stage.get("DefaultRouteSettings", {}).get("ThrottlingRateLimit"):
            yield f"{name} accepts any number of requests"
        if "path" in str(stage.get("AccessLogSettings", {}).get("Format", "path")).lower():
            yield f"{name} logs paths, which contain the tokens of callbacks"


def check_monitoring(template: Template) -> Iterator[str]:
    """Yield logs without a retention period, and missing or incomplete alarms."""
    for name, function in _resources(template, "AWS::Lambda::Function"):
        group = _name_of(function.get("LoggingConfig", {}).get("LogGroup"))
        if not group or not _properties(template, group).get("RetentionInDays"):
            yield f"{name} keeps its logs forever"
    alarms, functions = set(), set()
    for name, alarm in _resources(template, "AWS::CloudWatch::Alarm"):
        alarms.add((alarm["Namespace"], alarm["MetricName"]))
        functions.add((alarm["MetricName"], _name_of(alarm["Dimensions"][0]["Value"])))
        if "AlarmActions" not in alarm or "docs/how-to/aws.md#alarms" not in alarm["AlarmDescription"]:
            yield f"{name} has no action, or no link to its instructions"
    for namespace, metric in sorted(REQUIRED_ALARMS - alarms):
        yield f"there is no alarm for {metric} of {namespace}"
    for metric, alarmed in sorted(ALARMED_FUNCTION_METRICS - functions):
        yield f"there is no alarm for {metric} of {alarmed}"


def check_oldest_messages(template: Template) -> Iterator[str]:
    """Yield alarms about old messages that a healthy queue raises.

    A message is held back until it is due. Then an invocation executes its step, and the steps that follow.
    """
    for name, alarm in _resources(template, "AWS::CloudWatch::Alarm"):
        if alarm["MetricName"] != "ApproximateAgeOfOldestMessage":
            continue
        for mapping in _mappings(template):
            queue = {"Fn::GetAtt": [_name_of(mapping["EventSourceArn"]), "QueueName"]}
            if alarm["Dimensions"] != [{"Name": "QueueName", "Value": queue}]:
                continue
            timeout = _properties(template, _name_of(mapping["FunctionName"])).get("Timeout", 3)
            for parameters in _parameter_choices(template, timeout, alarm["Threshold"]):
                healthy = MAX_DELAY_SECONDS + int(_evaluate(template, timeout, parameters))
                threshold = int(_evaluate(template, alarm["Threshold"], parameters))
                is_dead_letter = "RedrivePolicy" not in _queue_of(template, mapping)
                if not is_dead_letter and threshold <= healthy:
                    yield f"{name} is raised after {threshold} s, but messages may be {healthy} s old"


def check_table(template: Template) -> Iterator[str]:
    """Yield differences between the table and its definition in `infra/dynamodb.json`."""
    definition = json.loads((ROOT / "infra" / "dynamodb.json").read_text("utf-8"))
    for name, table in _resources(template, "AWS::DynamoDB::Table"):
        for key, value in definition.items():
            if key in TABLE_PROPERTIES and table.get(key) != value:
                yield f"{name} has another {key} than infra/dynamodb.json"


CHECKS: tuple[Callable[[Template], Iterable[str]], ...] = (
    check_recursive_loops,
    check_visibility_timeouts,
    check_batches,
    check_dead_letters,
    check_queue_policies,
    check_data_protection,
    check_buckets,
    check_retention,
    check_roles,
    check_permissions,
    check_dead_letter_functions,
    check_authentication,
    check_routes,
    check_settings,
    check_secrets,
    check_parameter_pairs,
    check_connections,
    check_store_choice,
    check_api,
    check_monitoring,
    check_oldest_messages,
    check_table,
)


def _resources(template: Template, type_: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield name and properties of each resource of a type."""
    for name, resource in template["Resources"].items():
        if resource["Type"] == type_:
            yield name, resource.get("Properties", {})


def _properties(template: Template, name: str) -> Mapping[str, Any]:
    properties: Mapping[str, Any] = template["Resources"].get(name, {}).get("Properties", {})
    return properties


def _mappings(template: Template, function: str | None = None) -> Iterator[Mapping[str, Any]]:
    """Yield the event source mappings of a function, or of all functions."""
    for _, mapping in _resources(template, "AWS::Lambda::EventSourceMapping"):
        if function in (None, _name_of(mapping["FunctionName"])):
            yield mapping


def _queue_of(template: Template, mapping: Mapping[str, Any]) -> Mapping[str, Any]:
    return _properties(template, _name_of(mapping["EventSourceArn"]))


def _name_of(reference: Any) -> str:
    """Return the name of the resource that a value refers to, or an empty text.

    >>> _name_of({"Ref": "Table"}), _name_of({"Fn::GetAtt": ["Table", "Arn"]}), _name_of("table")
    ('Table', 'Table', '')
    """
    if isinstance(reference, dict):
        if "Ref" in reference:
            return str(reference["Ref"])
        attribute = reference.get("Fn::GetAtt", "")
        return str(attribute[0] if isinstance(attribute, list) else attribute.partition(".")[0])
    return ""


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _default_parameters(template: Template) -> dict[str, Any]:
    return {name: parameter.get("Default", "") for name, parameter in template["Parameters"].items()}


def _statements_of(template: Template, function: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the statements of the function's own role. A conditional yields all of its alternatives."""
    yield from (statement for _, statement in _conditional_statements(template, function))


def _conditional_statements(
    template: Template, function: Mapping[str, Any]
) -> Iterator[tuple[str | None, Mapping[str, Any]]]:
    """Yield the statements of the function's own role, each with the name of its condition, if it has one."""
    for policy in _properties(template, _name_of(function["Role"])).get("Policies", ()):
        for statement in _as_list(policy["PolicyDocument"]["Statement"]):
            condition, *alternatives = statement.get("Fn::If", (None, statement))
            yield from ((condition, rights) for rights in alternatives if "Ref" not in rights)


def _alternatives(value: Any) -> Iterator[Any]:
    """Yield the members of a value that is one, a list, or a conditional of such values.

    >>> list(_alternatives({"Fn::If": ["IsNew", ["a", "b"], {"Ref": "Old"}]}))
    ['a', 'b', {'Ref': 'Old'}]
    """
    if isinstance(value, dict) and "Fn::If" in value:
        for alternative in value["Fn::If"][1:]:
            yield from _alternatives(alternative)
    elif isinstance(value, list):
        for member in value:
            yield from _alternatives(member)
    else:
        yield value


def _is_specific(resource: Any) -> bool:
    """Return whether a resource of a statement has no wildcard, except at its end.

    A final `*` is allowed for the content of a bucket, and for names with the prefix of a parameter.
    """
    text = resource.get("Fn::Sub") if isinstance(resource, dict) else resource
    if text is None:
        return bool(_name_of(resource))
    text = _as_list(text)[0]
    prefix = str(text).removesuffix("*")
    endings = (".Arn}/", "${ExistingBucketName}/", "Prefix}")
    return "*" not in prefix and (not str(text).endswith("*") or prefix.endswith(endings))


def _denies_plain_http(policy: Mapping[str, Any], bucket: str) -> bool:
    return _name_of(policy["Bucket"]) == bucket and any(
        statement["Effect"] == "Deny"
        and statement.get("Condition") == {"Bool": {"aws:SecureTransport": "false"}}
        for statement in policy["PolicyDocument"]["Statement"]
    )


def _parameter_choices(template: Template, *values: Any) -> Iterator[dict[str, Any]]:
    """Yield every combination of the parameters that the values depend on."""
    names = sorted({name for value in values for name in _references(value)} & set(template["Parameters"]))
    allowed_values = [template["Parameters"][name].get("AllowedValues") for name in names]
    for name, allowed in zip(names, allowed_values, strict=True):
        if allowed is None:
            raise ValueError(
                f"the parameter {name} lacks AllowedValues, so values that depend on it are unknown"
            )
    for combination in itertools.product(*allowed_values):
        yield dict(zip(names, combination, strict=True))


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "Ref" in value:
            yield value["Ref"]
        for part in value.values():
            yield from _references(part)
    elif isinstance(value, list):
        for part in value:
            yield from _references(part)


def _evaluate(template: Template, expression: Any, parameters: Mapping[str, Any]) -> Any:
    """Return the value of an expression of CloudFormation with these parameters."""

    def evaluate(part: Any) -> Any:
        return _evaluate(template, part, parameters)

    if isinstance(expression, list):
        return [evaluate(part) for part in expression]
    if not isinstance(expression, dict):
        return expression
    [(function, argument)] = expression.items()
    match function:
        case "Ref":
            value = parameters[argument]
            is_list = template["Parameters"][argument]["Type"] == "CommaDelimitedList"
            return value.split(",") if is_list else value
        case "Condition":
            return evaluate(template["Conditions"][argument])
        case "Fn::FindInMap":
            name, first_key, second_key = evaluate(argument)
            return template["Mappings"][name][str(first_key)][second_key]
        case "Fn::Sub":
            text, values = argument if isinstance(argument, list) else (argument, {})
            named = {**parameters, **{name: evaluate(value) for name, value in values.items()}}
            return re.sub(r"\$\{(\w+)\}", lambda match: str(named[match[1]]), text)
    if function not in _FUNCTIONS:
        raise ValueError(f"unknown function {function} of CloudFormation")
    return _FUNCTIONS[function](*evaluate(argument))


_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "Fn::And": lambda *conditions: all(conditions),
    "Fn::Contains": lambda values, value: str(value) in map(str, values),
    "Fn::EachMemberEquals": lambda members, value: all(member == value for member in members),
    "Fn::Equals": lambda value, other: str(value) == str(other),
    "Fn::Join": lambda separator, parts: separator.join(map(str, parts)),
    "Fn::Not": lambda condition: not condition,
    "Fn::Or": lambda *conditions: any(conditions),
    "Fn::Split": lambda separator, text: text.split(separator),
}
"""Functions of CloudFormation, of evaluated arguments."""


if __name__ == "__main__":
    main()
