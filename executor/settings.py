"""The settings of NoETL: environment variables, each with its default and its meaning.

The functions that read a setting check its value. This module says which settings exist. The reference page
of settings is generated from it, and a test compares it with the names in the code.
"""

from __future__ import annotations

from noetl.planner.frozen import frozen


@frozen
class Setting:
    """An environment variable that NoETL reads. Its texts are Markdown."""

    name: str
    group: str
    value: str
    default: str
    meaning: str


SECRET_PREFIXES = ("NOETL_SECRET_", "NOETL_TENANT_SECRET_")
"""The prefixes of the variables that hold secrets: of the tenant `default`, and of others."""

GROUPS = {
    "store": "Where runs are kept",
    "execution": "How runs are executed",
    "capabilities": "What playbooks of a service may do",
    "secrets": "Secrets",
    "tokens": "Tokens",
    "rates": "Rate limits",
    "client": "The command line",
    "build": "The build for AWS",
}
"""The groups of settings, with their titles."""

SETTINGS = (
    Setting(
        "NOETL_STORE",
        "store",
        "the URL of a store, or the ARN of a secret with the address of a Postgres",
        "`sqlite:///.noetl/noetl.db`",
        "Where runs are kept. The option `--store` overrides it.",
    ),
    Setting(
        "NOETL_QUEUE",
        "store",
        "the URL of a standard queue of SQS",
        "none",
        "The queue whose messages announce due steps. Only a store in DynamoDB or Postgres uses it.",
    ),
    Setting(
        "NOETL_BUCKET",
        "store",
        "the name of an S3 bucket",
        "none",
        "Where a store in DynamoDB keeps values of more than 8 KB.",
    ),
    Setting(
        "NOETL_STACK",
        "capabilities",
        "the name of a stack of AWS",
        "none",
        "The stack of this service. If a name starts with it and a hyphen, `lambda` does not invoke the"
        " function, and `message` does not send to the queue.",
    ),
    Setting(
        "NOETL_RETENTION_DAYS",
        "store",
        "a number of days, at most 36500",
        "none: runs are kept",
        "How long after its end a run is deleted. Firings of that age are deleted too, and plans that no run"
        " and no playbook needs.",
    ),
    Setting(
        "NOETL_WORKERS",
        "execution",
        "a whole number from 1 to 1000",
        "four for each core",
        "How many steps of one tenant a process executes at the same time.",
    ),
    Setting(
        "NOETL_SPARE_WORKERS",
        "execution",
        "a whole number from 0 to 1000",
        "`1`",
        "How many more steps a process executes, for tenants that do not occupy `NOETL_WORKERS` threads."
        " So one tenant cannot occupy all threads.",
    ),
    Setting(
        "NOETL_MAX_BRANCHES",
        "execution",
        "a whole number from 1 to 1000000000",
        "`100000`",
        "How many branches of the runs of a tenant may be due, run or wait when another run starts or is"
        " resumed. Beyond it the answer is 429, and `workflow` fails with `LimitExceeded`. A store in"
        " DynamoDB does not count them, so the setting is refused there.",
    ),
    Setting(
        "NOETL_MAX_CHILD_RUNS",
        "execution",
        "a whole number from 1 to 1000000000",
        "`10000`",
        "How many child runs a run and its child runs may start together. The store counts them, so that all"
        " processes share the limit. DynamoDB may allow a tenth more. Beyond it `workflow` fails with"
        " `LimitExceeded`.",
    ),
    Setting(
        "NOETL_MAX_BACKFILLS",
        "execution",
        "a whole number from 1 to 1000000000",
        "`100`",
        "How many backfills of a tenant may run or be paused at the same time. Beyond it a request to start"
        " or to retry one is answered with 429. The newest 5,000 are counted.",
    ),
    Setting(
        "NOETL_MAX_ACTIONS",
        "execution",
        "a whole number from 1 to 1000000000",
        "`1000000`",
        "How many attempts at actions a visit of a step may make, with all its pauses and attempts. Beyond it"
        " they fail with `LimitExceeded`.",
    ),
    Setting(
        "NOETL_MAX_WAITS",
        "execution",
        "a whole number from 1 to 1000000000",
        "`10000`",
        "How many actions of a step may wait at the same time: `wait`, `callback`, `workflow`, and those of"
        " plugins that wait. Beyond it they fail with `LimitExceeded`.",
    ),
    Setting(
        "NOETL_LOG_BYTES",
        "execution",
        "a whole number of bytes",
        "`16777216` (16 MiB)",
        "How much the `log` actions of one run may log, in all processes, as lines of JSON. One line says"
        " that later lines are dropped.",
    ),
    Setting(
        "NOETL_CACHE_TTL",
        "execution",
        "a duration such as `7d`, or `off`",
        "`365d`",
        "The longest time for which a [cached result](language.md#cached-results) is used, whatever the `ttl`"
        " of the playbook is. `off`: all work is performed.",
    ),
    Setting(
        "NOETL_KEEP_INPUTS",
        "execution",
        "`on` or `off`",
        "`on`",
        "Whether the history of a run has the input of each attempt at an action, and of failed items"
        " of loops. That is up to 2,048 characters of each rendered parameter, without secrets.",
    ),
    Setting(
        "NOETL_LEASE_SECONDS",
        "execution",
        "a number of seconds from 1 to 3600",
        "`30`",
        "After which time other workers take over the steps of a worker that has died. Progress is reported"
        " every third of it.",
    ),
    Setting(
        "NOETL_CONTINUE_PERCENT",
        "execution",
        "a whole number from 0 to 90",
        "`50`",
        "In which first part of its time an invocation of a Lambda function continues with the next steps of"
        " a run. Later steps get an invocation of their own, with its whole time. With `0` each step gets"
        " one.",
    ),
    Setting(
        "NOETL_PUBLIC_URL",
        "execution",
        "an http or https URL",
        "none; `noetl serve` takes its own address",
        "The address at which others reach the service. The addresses of callbacks begin with it, and links"
        " with its path.",
    ),
    Setting(
        "NOETL_CORS_ORIGINS",
        "execution",
        "origins, separated by commas, such as `https://app.example.com`; or `*`",
        "none",
        "Web pages of these origins may send requests to the service and read the responses. They need a key"
        " or a token. Cookies are never used.",
    ),
    Setting(
        "NOETL_ITEM_THREADS",
        "execution",
        "a whole number from 0 to 10000",
        "`128`",
        "How many threads of a process perform parallel items and items of loops, in addition to those of the"
        " steps. A step gets half of them.",
    ),
    Setting(
        "NOETL_ANSWER_MEMORY",
        "execution",
        "a whole number of MiB from 16 to 1048576",
        "half of the memory (of a Lambda function: without 96 MiB), at most 1024",
        "How much memory the answers that a process receives may take at once. A run gets half of it.",
    ),
    Setting(
        "NOETL_MAX_STREAMS",
        "execution",
        "a whole number from 1 to 100000",
        "`1000`",
        "How many event streams a process of the service has open at the same time. A tenant may open one"
        " more while it has fewer than are free.",
    ),
    Setting(
        "NOETL_MAX_WAITING_REQUESTS",
        "execution",
        "a whole number from 1 to 100000",
        "`1000`; `50` in a Lambda function",
        "How many requests with `Prefer: wait` wait in a process at the same time. One more of a tenant waits"
        " while fewer wait than are free. Others are answered at once. The Lambda functions of a stack count"
        " together, and a tenant may have half of them.",
    ),
    Setting(
        "NOETL_MAX_BODIES",
        "execution",
        "a whole number from 1 to 100000",
        "`512`",
        "How many bodies of requests are on their way to a process at the same time. A tenant may have one"
        " more while it has fewer than are free.",
    ),
    Setting(
        "NOETL_TENANT_REQUESTS",
        "execution",
        "a whole number from 1 to 20",
        "`8`",
        "How many requests of a tenant a process answers at the same time. Others wait for them. While"
        " other tenants send requests, it answers an eighth of this number, at least one. Requests that wait"
        " for a run, a compute process or their client are not counted.",
    ),
    Setting(
        "NOETL_ACCESS_LOG",
        "execution",
        "`on` or `off`",
        "`on`",
        "Whether `noetl serve` logs each request: its caller, address, status, bytes and seconds. Probes that"
        " succeed are left out.",
    ),
    Setting(
        "NOETL_SEND_SECONDS",
        "execution",
        "a whole number of seconds from 1 to 3600",
        "`30`",
        "How long `noetl serve` waits for a client that does not read its response. In this time its"
        " system must take 16 KiB, or all that is left. A system whose buffer is full takes more in steps, on"
        " Linux of up to 400 KB. A client that reads less in this time may be closed as well.",
    ),
    Setting(
        "NOETL_MAX_CONNECTIONS",
        "execution",
        "a whole number from 1 to 60000",
        "`2000`",
        "How many connections `noetl serve` has open at the same time. The limit of open files may allow"
        " fewer. A tenant may open one more request while it has fewer than are free, so it has half if it"
        " is alone. Streams count. All requests without a caller are like one tenant, with a quarter at most,"
        " and addresses share it so. While one is free, each may have 8.",
    ),
    Setting(
        "NOETL_COMPUTE_PROCESSES",
        "execution",
        "a whole number from 1 to 64",
        "`2`",
        "How many processes compile long playbooks, draw graphs and evaluate the expressions of starts,"
        " firings and corrected runs. One more evaluates what schedules, folders, queues and ends of runs"
        " fire.",
    ),
    Setting(
        "NOETL_ALLOW_ACTIONS",
        "capabilities",
        "action types, separated by commas, or `*`",
        "`*`: all types",
        "The action types that playbooks may use. Commands, files, modules, private networks and secrets need"
        " a setting of their own, also with `*`.",
    ),
    Setting(
        "NOETL_ALLOW_NETWORKS",
        "capabilities",
        "address ranges, separated by commas, such as `10.0.0.0/8`",
        "none",
        "Ranges that `http` and `postgres` may reach although they are not public.",
    ),
    Setting(
        "NOETL_ALLOW_SHELL",
        "capabilities",
        "`1` or `0`",
        "`0`",
        "Whether `shell` may run commands.",
    ),
    Setting(
        "NOETL_ALLOW_UNSIGNED_WEBHOOKS",
        "capabilities",
        "`1` or `0`",
        "`0`",
        "Whether [webhooks](triggers.md#senders) of the scheme `none` accept requests.",
    ),
    Setting(
        "NOETL_COMMAND_MEMORY",
        "capabilities",
        "a whole number of MiB",
        "`1024`",
        "How much memory each process of a command or function may take (Linux: its data). All of its"
        " processes together may take this times `NOETL_COMMAND_PROCESSES`.",
    ),
    Setting(
        "NOETL_COMMAND_FILE_SIZE",
        "capabilities",
        "a whole number of MiB",
        "`1024`",
        "How large a file may be that a command or function writes.",
    ),
    Setting(
        "NOETL_COMMAND_PROCESSES",
        "capabilities",
        "a whole number",
        "`256`",
        "How many processes and threads a command or function may add to those of its user. The system does"
        " not limit root.",
    ),
    Setting(
        "NOETL_FILES_ROOT",
        "capabilities",
        "an existing folder",
        "none: no files",
        "The folder in which `file` may read and write. It must not overlap with that of the store or of"
        " secrets, nor with `/proc`, `/sys`, `/dev` or `/run/secrets`.",
    ),
    Setting(
        "NOETL_FILE_BYTES",
        "capabilities",
        "a whole number of bytes",
        "`1073741824` (1 GiB)",
        "How much one run may write to files in all processes, by `file` and by `copy_to` of `postgres`. What"
        " is replaced or deleted counts too.",
    ),
    Setting(
        "NOETL_PYTHON_MODULES",
        "capabilities",
        "names of modules, separated by commas, or `*`",
        "none",
        "The modules whose functions `python` may call.",
    ),
    Setting(
        "NOETL_SECRET_NAME",
        "secrets",
        "any text",
        "",
        "The secret that playbooks of the tenant `default` read as `secrets.NAME`. Replace `NAME` by the name"
        " of the secret.",
    ),
    Setting(
        "NOETL_TENANT_SECRET_TENANT__NAME",
        "secrets",
        "any text",
        "",
        "The secret that playbooks of another tenant read as `secrets.NAME`. Replace `TENANT` by the name of"
        " the tenant, with each character other than a letter or digit as `_` and two hexadecimal digits:"
        " `acme.eu` is `acme_2eeu`.",
    ),
    Setting(
        "NOETL_SECRETS_DIR",
        "secrets",
        "a folder",
        "none",
        "A folder with one file for each secret, which has the name of the secret. The secrets of another"
        " tenant than `default` are in a folder of its own, `TENANT/NAME`.",
    ),
    Setting(
        "NOETL_SECRETS_HOSTS",
        "secrets",
        "rules such as `TOKEN: api.example.com, *.example.org`, separated by `;` or line breaks",
        "none: a service sends no secret anywhere",
        "The hosts to which each secret may go. `TENANT/NAME` is the secret of another tenant than `default`,"
        " and `action:shell` allows an action that sends nothing to a host.",
    ),
    Setting(
        "NOETL_TRIGGER_SOURCES",
        "capabilities",
        "rules such as `folder:orders` or `acme/sqs:URL`, separated by `;` or line breaks",
        "none: triggers read no source",
        "The sources that triggers may read. `TENANT/` begins a rule of another tenant than `default`."
        " A folder is below that of `NOETL_FILES_ROOT`, and its rule allows the folders below it."
        " `sqs` has the URL of a queue or its ARN,"
        " and `table` the name of a table of the store in Postgres."
        " `s3:BUCKET` allows the objects of a bucket, and `event:SOURCE` the events of a source."
        " Actions of a tenant without a rule do not use what rules give to others.",
    ),
    Setting(
        "NOETL_EVENT_BUSES",
        "capabilities",
        "rules such as `default` or `acme/ops`, separated by `;` or line breaks",
        "none: notifications go to no bus",
        "The buses of Amazon EventBridge, by name or ARN as channels write them, to which notifications may"
        " be sent. `TENANT/` begins a rule of another tenant than `default`.",
    ),
    Setting(
        "NOETL_EVENT_QUEUE",
        "capabilities",
        "the URL of a queue of SQS",
        "none: triggers get no events",
        "The queue to which Amazon EventBridge sends the events of the rules `s3` and `event`. In a function"
        " of AWS it is the ARN of the queue.",
    ),
    Setting(
        "NOETL_SECRETS_PREFIX",
        "secrets",
        "a prefix of names",
        "none: AWS is not asked",
        "Secrets are also read from AWS Secrets Manager and Systems Manager, under this prefix and their"
        " name, those of another tenant than `default` under the prefix and `TENANT/NAME`.",
    ),
    Setting("NOETL_JWT_ISSUER", "tokens", "the name of an issuer", "none", "What `iss` of a token must be."),
    Setting(
        "NOETL_JWT_AUDIENCE",
        "tokens",
        "a text",
        "required with an issuer",
        "What `aud` of a token must be or contain.",
    ),
    Setting(
        "NOETL_JWKS_URL",
        "tokens",
        "an https URL",
        "`{issuer}/.well-known/jwks.json`",
        "The address of the keys of the issuer. They are cached for ten minutes, and for an hour while the"
        " issuer does not respond. A read ends after 5 s. An unknown key lets them be read again, 5 s"
        " after the last read, and 30 s after one that has failed. So tokens of a new key may be refused for"
        " 5 s.",
    ),
    Setting(
        "NOETL_JWT_SCOPE_CLAIM",
        "tokens",
        "the name of a claim",
        "`scope`",
        "The claim with the scopes: words of a text, or a list. Also written `noetl:run` and `noetl/run`.",
    ),
    Setting(
        "NOETL_JWT_TENANT_CLAIM",
        "tokens",
        "the name of a claim",
        "none: all tokens belong to `default`",
        "The claim with the tenant, which every token then needs. Set it if the issuer has several"
        " organisations.",
    ),
    Setting(
        "NOETL_RATE_PER_KEY",
        "rates",
        "a number of requests in a minute; `0` is no limit",
        "`30000`",
        "How many requests a key or token may send. All processes that share the store count together.",
    ),
    Setting(
        "NOETL_RATE_PER_TENANT",
        "rates",
        "a number of requests in a minute; `0` is no limit",
        "`60000`",
        "How many requests all callers of a tenant may send. All processes that share the store count"
        " together.",
    ),
    Setting(
        "NOETL_RATE_FAILURES",
        "rates",
        "a number of requests in a minute; `0` is no limit",
        "`60`",
        "How many requests with wrong credentials an address may send to a process until further ones are"
        " answered with 429. Others may have the same address, so 20 times as many are checked nevertheless. "
        "Beyond that, only credentials that were accepted before are. Unknown tokens of callbacks are counted"
        " apart, with the same limits. So are requests to webhooks that are not signed, without the second.",
    ),
    Setting(
        "NOETL_RATE_CALLBACKS",
        "rates",
        "a number of requests in a minute; `0` is no limit",
        "`30000`",
        "How many answers, forms and heartbeats of callbacks an address may send to a process, and how many"
        " requests to webhooks.",
    ),
    Setting(
        "NOETL_API_KEY",
        "client",
        "an API key or a token",
        "none",
        "What `noetl submit` sends to the service. It is not sent over http to other machines.",
    ),
    Setting(
        "NOETL_DEBUG",
        "client",
        "`1`",
        "none",
        "Whether an internal error is printed with its traceback.",
    ),
    Setting(
        "NOETL_ARCHITECTURE",
        "build",
        "`arm64` or `x86_64`",
        "`Architecture` in `samconfig.toml`, else `arm64`",
        "The processor for which `sam build` builds the functions.",
    ),
    Setting(
        "NOETL_PYTHON",
        "build",
        "a version of Python",
        "`3.13`",
        "The version of Python for which `sam build` builds the functions.",
    ),
)
