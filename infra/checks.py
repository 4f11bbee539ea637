"""What must hold of `template.yaml`, as AWS sees it after the transformation of SAM.

    python -m noetl.infra.checks [template.yaml]

Each check is a function that says in sentences what is wrong. AWS refuses some of these at a deployment, forgets about others
until there is load, and takes a few for what was meant.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = ROOT / "template.yaml"

VISIBILITY_FACTOR = 6
"""How many times as long as an invocation may take a message is hidden, as AWS advises: a batch may be tried again."""

LONGEST_GATEWAY_SECONDS = 30
LONGEST_RETENTION_SECONDS = 14 * 24 * 3600
FEWEST_RECEIVES = 5
ALARMED = {
    ("NoETL", "GivenUp"),
    ("AWS/SQS", "ApproximateAgeOfOldestMessage"),
    ("AWS/Lambda", "Errors"),
    ("AWS/Lambda", "Throttles"),
    ("AWS/ApiGateway", "5xx"),
}
SETTINGS_OF_ALL = {"NOETL_ALLOW_ACTIONS": "AllowedActions", "NOETL_RETENTION_DAYS": "RetentionDays"}
SETTINGS_OF_ISSUER = {"NOETL_JWT_ISSUER": "JwtIssuer", "NOETL_JWT_AUDIENCE": "JwtAudience"}

Template = Mapping[str, Any]


def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else TEMPLATE
    found = problems(transformed(path))
    for problem in found:
        print(problem)
    sys.exit(bool(found))


def transformed(path: Path = TEMPLATE) -> dict[str, Any]:
    """The template at a path as SAM makes it one of CloudFormation."""
    os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")  # which none of the checks depends on
    from samtranslator.translator.transform import transform
    from samtranslator.yaml_helper import yaml_parse

    class NoPolicies:
        def load(self) -> dict[str, str]:
            return {}

    text = yaml_parse(path.read_text("utf-8"))
    for resource in text["Resources"].values():
        if resource["Type"] == "AWS::Serverless::Function":
            # What is packaged stands in a bucket by then.
            resource["Properties"]["CodeUri"] = "s3://bucket/package"
    text.get("Globals", {}).get("Function", {}).pop("CodeUri", None)
    result: dict[str, Any] = transform(text, {}, NoPolicies())
    result["Rules"] = text.get("Rules", {})
    plain: dict[str, Any] = json.loads(json.dumps(result))
    return plain


def problems(template: Template) -> list[str]:
    """Everything that is wrong with a template."""
    return [problem for check in CHECKS for problem in check(template)]


def loops_are_allowed(template: Template) -> Iterator[str]:
    """Lambda ends a function that sends to the queue it is called from after about 16 rounds, unless it may do so."""
    for name, function in _of_type(template, "AWS::Lambda::Function"):
        own = {_name_of(mapping["EventSourceArn"]) for mapping in _mappings(template, name)}
        sends = {
            _name_of(resource)
            for statement in _statements_of(template, function)
            if "sqs:SendMessage" in _listed(statement["Action"])
            for resource in _listed(statement["Resource"])
        }
        allows = function.get("RecursiveLoop") == "Allow"
        if own & sends and not allows:
            yield f"{name} sends to the queue it is called from, and lacks `RecursiveLoop: Allow`"
        if allows and not own & sends:
            yield f"{name} has `RecursiveLoop: Allow` for no reason"


def messages_stay_hidden(template: Template) -> Iterator[str]:
    """A message that is at work must not come again meanwhile."""
    for mapping in _mappings(template):
        queue = _queue(template, mapping)
        function = _properties(template, _name_of(mapping["FunctionName"]))
        for parameters in _choices(template, function.get("Timeout", 3), queue.get("VisibilityTimeout", 30)):
            timeout = int(_value(template, function.get("Timeout", 3), parameters))
            hidden = int(_value(template, queue.get("VisibilityTimeout", 30), parameters))
            if hidden < VISIBILITY_FACTOR * timeout:
                yield (
                    f"{_name_of(mapping['EventSourceArn'])} hides messages for {hidden} s, and {_name_of(mapping['FunctionName'])}"
                    f" may take {timeout} s: at least {VISIBILITY_FACTOR} times that is needed"
                )


def batches_report(template: Template) -> Iterator[str]:
    """A message that fails must not bring back the others of its batch; larger batches are refused without a window."""
    for mapping in _mappings(template):
        name = _name_of(mapping["FunctionName"])
        if mapping.get("FunctionResponseTypes") != ["ReportBatchItemFailures"]:
            yield f"{name} does not report the messages of a batch that failed"
        if mapping.get("BatchSize", 10) > 10 and not mapping.get("MaximumBatchingWindowInSeconds"):
            yield f"{name} has a batch size above 10, which needs a batching window"
        if "MaximumConcurrency" not in mapping.get("ScalingConfig", {}):
            yield f"{name} has no maximum concurrency: it may take what other functions of the account need"


def what_fails_is_kept(template: Template) -> Iterator[str]:
    """What was tried too often goes to a queue that a function reads, so that no run waits for it."""
    read = {_name_of(mapping["EventSourceArn"]) for mapping in _mappings(template)}
    dead: set[str] = set()
    for name, queue in _of_type(template, "AWS::SQS::Queue"):
        redrive = queue.get("RedrivePolicy")
        if redrive is not None:
            dead.add(_name_of(redrive["deadLetterTargetArn"]))
            if redrive.get("maxReceiveCount", 0) < FEWEST_RECEIVES:
                yield f"{name} gives messages up after fewer than {FEWEST_RECEIVES} tries"
    for name, queue in _of_type(template, "AWS::SQS::Queue"):
        if "RedrivePolicy" not in queue and name not in dead:
            yield f"{name} has no dead-letter queue"
        if name in dead and name not in read:
            yield f"nobody reads {name}: runs would wait for what lies there"
        if queue.get("MessageRetentionPeriod", 0) < LONGEST_RETENTION_SECONDS:
            yield f"{name} forgets messages sooner than it must"
    if not dead:
        yield "there is no dead-letter queue"


def what_is_kept_is_safe(template: Template) -> Iterator[str]:
    """Encrypted, recoverable, not public, and still there when the stack is gone."""
    for name, queue in _of_type(template, "AWS::SQS::Queue"):
        if not (queue.get("SqsManagedSseEnabled") or queue.get("KmsMasterKeyId")):
            yield f"{name} is not encrypted"
    for name, table in _of_type(template, "AWS::DynamoDB::Table"):
        if not table.get("SSESpecification", {}).get("SSEEnabled"):
            yield f"{name} is not encrypted"
        if not table.get("PointInTimeRecoverySpecification", {}).get("PointInTimeRecoveryEnabled"):
            yield f"{name} has no point-in-time recovery"
        if table.get("TimeToLiveSpecification", {}).get("Enabled") is not True:
            yield f"{name} has no time to live"
    for name, bucket in _of_type(template, "AWS::S3::Bucket"):
        if not bucket.get("BucketEncryption"):
            yield f"{name} is not encrypted"
        block = bucket.get("PublicAccessBlockConfiguration", {})
        if not all(
            block.get(word)
            for word in ("BlockPublicAcls", "BlockPublicPolicy", "IgnorePublicAcls", "RestrictPublicBuckets")
        ):
            yield f"{name} may be made public"
        if not any(
            _denies_plain_http(policy, name) for _, policy in _of_type(template, "AWS::S3::BucketPolicy")
        ):
            yield f"{name} may be read without encryption on the way"
    for type_ in ("AWS::DynamoDB::Table", "AWS::S3::Bucket"):
        for name, resource in template["Resources"].items():
            kept = (resource.get("DeletionPolicy"), resource.get("UpdateReplacePolicy"))
            if resource["Type"] == type_ and kept != ("Retain", "Retain"):
                yield f"{name} is deleted with the stack"


def rights_are_few(template: Template) -> Iterator[str]:
    """No function may do everything with something, or something with everything; none has the rights of another."""
    roles: set[str] = set()
    for name, function in _of_type(template, "AWS::Lambda::Function"):
        role = _name_of(function["Role"])
        if role in roles:
            yield f"{name} shares the role {role}"
        roles.add(role)
        for statement in _statements_of(template, function):
            if statement.get("Effect") != "Allow" or "NotAction" in statement or "NotResource" in statement:
                yield f"{name} has a statement that does not say what is allowed"
                continue
            for action in _listed(statement["Action"]):
                if "*" in action:
                    yield f"{name} may {action}"
            for resource in _listed(statement["Resource"]):
                if not _is_particular(resource):
                    yield f"{name} has rights on {json.dumps(resource)}"


def what_is_lost_is_handled(template: Template) -> Iterator[str]:
    """Who fails what was tried too often then walks what the playbook does about it: with what a step has, and may."""
    readers = {
        _name_of(mapping["EventSourceArn"]): _name_of(mapping["FunctionName"])
        for mapping in _mappings(template)
    }
    for queue, name in readers.items():
        dead = _name_of(_properties(template, queue).get("RedrivePolicy", {}).get("deadLetterTargetArn"))
        if dead in readers:
            one, other = (_properties(template, function) for function in (name, readers[dead]))
            if one.get("Environment") != other.get("Environment"):
                yield f"{readers[dead]} has other settings than {name}"
            if list(_statements_of(template, one)) != list(_statements_of(template, other)):
                yield f"{readers[dead]} has other rights than {name}"


def callers_are_known(template: Template) -> Iterator[str]:
    """Nothing is deployed that serves people who cannot be told apart."""
    parameter = template["Parameters"].get("Authentication", {})
    if "Default" in parameter or sorted(parameter.get("AllowedValues", ())) != ["api-keys", "jwt"]:
        yield "`Authentication` must be chosen at a deployment, from `api-keys` and `jwt`"
    empty = {name: given.get("Default", "") for name, given in template["Parameters"].items()}
    for name in SETTINGS_OF_ISSUER.values():
        given = empty | {
            "Authentication": "jwt",
            "JwtIssuer": "https://issuer.test",
            "JwtAudience": "noetl",
            name: "",
        }
        if not broken_rules(template, given):
            yield f"tokens are believed without `{name}`"
    for name, function in _of_type(template, "AWS::Lambda::Function"):
        environment = function.get("Environment", {}).get("Variables", {})
        for setting in ("NOETL_ALLOW_SHELL", "NOETL_FILES_ROOT"):
            if setting in environment:
                yield f"{name} has the setting {setting}"
        if function["Handler"].startswith("api."):
            for setting, parameter_name in SETTINGS_OF_ISSUER.items():
                if environment.get(setting, {}).get("Fn::If", [None, None])[1] != {"Ref": parameter_name}:
                    yield f"{name} does not learn of {parameter_name}"
    for name, route in _of_type(template, "AWS::ApiGatewayV2::Route"):
        if route["RouteKey"] != "$default":
            yield f"{name} is a route beside the app's own"


def a_vpc_is_whole(template: Template) -> Iterator[str]:
    """Lambda refuses subnets without security groups, and the other way round, when half of a stack has been made."""
    given = {"Authentication": "api-keys", "SubnetIds": "subnet-1", "SecurityGroupIds": "sg-1"}
    empty = {name: parameter.get("Default", "") for name, parameter in template["Parameters"].items()}
    for one, other in (("SubnetIds", "SecurityGroupIds"), ("SecurityGroupIds", "SubnetIds")):
        if not broken_rules(template, empty | given | {other: ""}):
            yield f"`{one}` are taken without `{other}`"


def broken_rules(template: Template, parameters: Mapping[str, Any]) -> list[str]:
    """What the rules of a template say against a deployment with these parameters."""
    broken = []
    for rule in template["Rules"].values():
        if "RuleCondition" in rule and not _value(template, rule["RuleCondition"], parameters):
            continue
        broken += [
            assertion["AssertDescription"]
            for assertion in rule["Assertions"]
            if not _value(template, assertion["Assert"], parameters)
        ]
    return broken


def operators_are_heard(template: Template) -> Iterator[str]:
    """What is set for all functions reaches each of them."""
    for name, function in _of_type(template, "AWS::Lambda::Function"):
        environment = function.get("Environment", {}).get("Variables", {})
        for setting, parameter in SETTINGS_OF_ALL.items():
            if environment.get(setting) != {"Ref": parameter}:
                yield f"{name} does not learn of {parameter}"


def runs_are_kept_in_one_place(template: Template) -> Iterator[str]:
    """In a table and a bucket, or in a Postgres whose address is in a secret: what the other one needs is not made."""
    for type_ in ("AWS::DynamoDB::Table", "AWS::S3::Bucket", "AWS::S3::BucketPolicy"):
        for name, resource in template["Resources"].items():
            if resource["Type"] == type_ and not _is_of_dynamo(template, resource):
                yield f"{name} is made although runs are kept in Postgres"
    secret = {"Ref": "DatabaseSecretArn"}
    for name, function in _of_type(template, "AWS::Lambda::Function"):
        store = function["Environment"]["Variables"].get("NOETL_STORE")
        if not isinstance(store, dict) or secret not in store.get("Fn::If", ()):
            yield f"{name} does not learn where runs are kept"
        statements = _statements_of(template, function)
        if not any(
            one["Action"] == "secretsmanager:GetSecretValue" and one["Resource"] == secret
            for one in statements
        ):
            yield f"{name} may not read the address of the database"


def _is_of_dynamo(template: Template, resource: Mapping[str, Any]) -> bool:
    """Whether a resource is made exactly where no database is named."""
    condition = template["Conditions"].get(resource.get("Condition"))
    return condition is not None and [
        _value(template, condition, {"DatabaseSecretArn": given}) for given in ("", "arn")
    ] == [True, False]


def answers_come_in_time(template: Template) -> Iterator[str]:
    """The gateway gives a request up after 30 seconds, and what is behind it must have answered."""
    for name, integration in _of_type(template, "AWS::ApiGatewayV2::Integration"):
        if integration.get("PayloadFormatVersion") != "2.0":
            yield f"{name} does not hand over payloads of format 2.0"
        seconds = integration.get("TimeoutInMillis", 30_000) / 1000
        function = _properties(template, _name_of(integration["IntegrationUri"]))
        if not 25 < function["Timeout"] < seconds <= LONGEST_GATEWAY_SECONDS:
            yield f"{name} waits {seconds:g} s for a function that may take {function['Timeout']} s"
    for name, stage in _of_type(template, "AWS::ApiGatewayV2::Stage"):
        if not stage.get("DefaultRouteSettings", {}).get("ThrottlingRateLimit"):
            yield f"{name} takes any number of requests"
        if "path" in str(stage.get("AccessLogSettings", {}).get("Format", "path")).lower():
            yield f"{name} logs paths, and with them the tokens of callbacks"


def much_is_told(template: Template) -> Iterator[str]:
    """Logs that are forgotten some day, and alarms for what somebody must do something about."""
    for name, function in _of_type(template, "AWS::Lambda::Function"):
        group = _name_of(function.get("LoggingConfig", {}).get("LogGroup"))
        if not group or not _properties(template, group).get("RetentionInDays"):
            yield f"{name} keeps its logs for ever"
    found = set()
    for name, alarm in _of_type(template, "AWS::CloudWatch::Alarm"):
        found.add((alarm["Namespace"], alarm["MetricName"]))
        if "AlarmActions" not in alarm or "docs/aws.md#alarms" not in alarm["AlarmDescription"]:
            yield f"{name} tells nobody, or not what to do"
    for namespace, metric in sorted(ALARMED - found):
        yield f"there is no alarm for {metric} of {namespace}"


def the_table_is_the_stores(template: Template) -> Iterator[str]:
    """The store's own definition of its table says the same."""
    described = json.loads((ROOT / "infra" / "dynamodb.json").read_text("utf-8"))
    for name, table in _of_type(template, "AWS::DynamoDB::Table"):
        for key, value in described.items():
            if (
                key in ("KeySchema", "AttributeDefinitions", "GlobalSecondaryIndexes", "BillingMode")
                and table.get(key) != value
            ):
                yield f"{name} has another {key} than infra/dynamodb.json"


CHECKS: tuple[Callable[[Template], Iterable[str]], ...] = (
    loops_are_allowed,
    messages_stay_hidden,
    batches_report,
    what_fails_is_kept,
    what_is_kept_is_safe,
    rights_are_few,
    what_is_lost_is_handled,
    callers_are_known,
    a_vpc_is_whole,
    operators_are_heard,
    runs_are_kept_in_one_place,
    answers_come_in_time,
    much_is_told,
    the_table_is_the_stores,
)


def _of_type(template: Template, type_: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, resource in template["Resources"].items():
        if resource["Type"] == type_:
            yield name, resource.get("Properties", {})


def _properties(template: Template, name: str) -> Mapping[str, Any]:
    properties: Mapping[str, Any] = template["Resources"].get(name, {}).get("Properties", {})
    return properties


def _mappings(template: Template, function: str | None = None) -> Iterator[Mapping[str, Any]]:
    for _, mapping in _of_type(template, "AWS::Lambda::EventSourceMapping"):
        if function in (None, _name_of(mapping["FunctionName"])):
            yield mapping


def _queue(template: Template, mapping: Mapping[str, Any]) -> Mapping[str, Any]:
    return _properties(template, _name_of(mapping["EventSourceArn"]))


def _name_of(reference: Any) -> str:
    """The name of the resource that a value refers to; of none it is empty."""
    if isinstance(reference, dict):
        if "Ref" in reference:
            return str(reference["Ref"])
        found = reference.get("Fn::GetAtt", "")
        return str(found[0] if isinstance(found, list) else found.partition(".")[0])
    return ""


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _statements_of(template: Template, function: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """What the function's own role allows; of a choice, whatever there is to choose from."""
    for policy in _properties(template, _name_of(function["Role"])).get("Policies", ()):
        for statement in _listed(policy["PolicyDocument"]["Statement"]):
            for one in statement["Fn::If"][1:] if "Fn::If" in statement else [statement]:
                if "Ref" not in one:
                    yield one


def _is_particular(resource: Any) -> bool:
    """Whether something can be said to be meant: a resource, what is in it, or what has a name that begins in some way."""
    text = resource.get("Fn::Sub") if isinstance(resource, dict) else resource
    if text is None:
        return bool(_name_of(resource))
    body = str(text).removesuffix("*")
    return "*" not in body and (not str(text).endswith("*") or body.endswith((".Arn}/", "Prefix}")))


def _denies_plain_http(policy: Mapping[str, Any], bucket: str) -> bool:
    return _name_of(policy["Bucket"]) == bucket and any(
        statement["Effect"] == "Deny"
        and statement.get("Condition") == {"Bool": {"aws:SecureTransport": "false"}}
        for statement in policy["PolicyDocument"]["Statement"]
    )


def _choices(template: Template, *values: Any) -> Iterator[dict[str, Any]]:
    """Every choice of the parameters that the values depend on."""
    names = sorted({name for value in values for name in _references(value)} & set(template["Parameters"]))
    allowed = [template["Parameters"][name].get("AllowedValues") for name in names]
    for name, given in zip(names, allowed, strict=True):
        if given is None:
            raise ValueError(
                f"the parameter {name} may be anything, so nothing can be said of what depends on it"
            )
    for chosen in itertools.product(*allowed):
        yield dict(zip(names, chosen, strict=True))


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "Ref" in value:
            yield value["Ref"]
        for part in value.values():
            yield from _references(part)
    elif isinstance(value, list):
        for part in value:
            yield from _references(part)


def _value(template: Template, value: Any, parameters: Mapping[str, Any]) -> Any:
    """The value of an expression of CloudFormation with these parameters."""

    def of(part: Any) -> Any:
        return _value(template, part, parameters)

    if not isinstance(value, dict):
        return value
    [(function, given)] = value.items()
    match function:
        case "Ref":
            value = parameters[given]
            return (
                value.split(",") if template["Parameters"][given]["Type"] == "CommaDelimitedList" else value
            )
        case "Fn::FindInMap":
            name, first, second = map(of, given)
            return template["Mappings"][name][str(first)][second]
        case "Fn::Equals":
            return of(given[0]) == of(given[1])
        case "Fn::EachMemberEquals":
            return all(member == of(given[1]) for member in of(given[0]))
        case "Fn::Not":
            return not of(given[0])
        case "Fn::And":
            return all(map(of, given))
        case "Fn::Or":
            return any(map(of, given))
    raise ValueError(f"{function} is not known here")


if __name__ == "__main__":
    main()
