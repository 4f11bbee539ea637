"""Print the settings of a deployed stack, as commands of a shell.

    eval "$(python -m noetl.infra.stack noetl)"

The SAM CLI wraps the outputs of a stack, so a command with all settings cannot be copied from there.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence

from noetl.executor.clients.aws import client, translate_error
from noetl.executor.errors import ActionError

SETTINGS = {"NOETL_STORE": "StoreUrl", "NOETL_QUEUE": "QueueUrl", "NOETL_BUCKET": "BucketName"}
"""The output of the stack for each setting. A stack with a Postgres store has no bucket."""


def main(arguments: Sequence[str] | None = None) -> None:
    names = sys.argv[1:] if arguments is None else arguments
    if len(names) != 1:
        sys.exit('usage: eval "$(python -m noetl.infra.stack STACK)"')
    try:
        print("\n".join(render_exports(read_outputs(names[0]))))
    except (ActionError, LookupError) as error:
        sys.exit(str(error.args[0]) if isinstance(error, LookupError) else error.message)


def read_outputs(stack: str) -> dict[str, str]:
    """Return the outputs of a stack.

    Raises:
        ActionError: CloudFormation cannot be reached, or the stack is unknown.
    """
    try:
        [description] = client("cloudformation").describe_stacks(StackName=stack)["Stacks"]
    except Exception as error:
        raise translate_error(error, f"stack {stack}") from error
    return {output["OutputKey"]: output["OutputValue"] for output in description.get("Outputs", ())}


def render_exports(outputs: Mapping[str, str]) -> list[str]:
    """Return a command for each setting that the outputs have.

    >>> render_exports({"StoreUrl": "dynamodb://noetl", "QueueUrl": "https://sqs/1/q"})
    ['export NOETL_STORE=dynamodb://noetl', 'export NOETL_QUEUE=https://sqs/1/q']

    Raises:
        LookupError: the stack is none of the template.
    """
    if "StoreUrl" not in outputs:
        raise LookupError("the stack has no output StoreUrl: give the name of a stack of template.yaml")
    return [
        f"export {setting}={shlex.quote(outputs[name])}"
        for setting, name in SETTINGS.items()
        if name in outputs
    ]


if __name__ == "__main__":
    main()
