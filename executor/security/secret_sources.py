"""Sources of secrets: the environment, a folder, AWS Secrets Manager and Systems Manager.

A secret travels through the executor as a reference, by name. Its value is read only when it is rendered into
a parameter that accepts secrets; from then on it is redacted (`noetl.executor.security.redaction`).
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from noetl.executor.errors import ActionError, SettingError, StoreError
from noetl.executor.security.redaction import MASK, REVEALED_SECRETS

_FETCH_SECONDS = 20
_VARIABLE_PREFIX = "NOETL_SECRET_"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class SecretReference(str):
    """A reference to a secret, by name. As text it is the mask, so text operations never see the value."""

    __slots__ = ("name",)
    name: str

    def __new__(cls, name: str) -> Self:
        secret = super().__new__(cls, MASK)
        secret.name = name
        return secret

    def reveal(self, environ: Mapping[str, str] = os.environ) -> str:
        """Return the value, which is redacted from now on. Raises as `resolve_secret` does."""
        return resolve_secret(self.name, environ)

    def __reduce__(self) -> tuple[type[SecretReference], tuple[str]]:
        return SecretReference, (self.name,)


def resolve_secret(name: str, environ: Mapping[str, str] = os.environ) -> str:
    """Return the value of a secret from the first source that has it, and redact it from now on.

    The sources, in order:

    1. the variable `NOETL_SECRET_<name>`,
    2. the file `<name>` in the folder `NOETL_SECRETS_DIR`,
    3. with `NOETL_SECRETS_PREFIX`: `<prefix><name>` in AWS Secrets Manager,
    4. with `NOETL_SECRETS_PREFIX`: `<prefix><name>` in the parameter store of AWS Systems Manager.

    Raises:
        ActionError: `ParameterError` if no source has it; else the error of a source, such as `AccessDenied`.
    """
    if not _NAME.fullmatch(name):
        raise ActionError("ParameterError", f"{name!r} is not a valid name of a secret", retryable=False)
    value = environ.get(f"{_VARIABLE_PREFIX}{name}")
    if value is None and (folder := environ.get("NOETL_SECRETS_DIR")):
        value = _read_secret_file(Path(folder, name))
    prefix = environ.get("NOETL_SECRETS_PREFIX", "")
    if value is None and prefix:
        value = AWS_SECRETS.get(f"{prefix}{name}")
    if value is None:
        hint = f", or store it as `{prefix}{name}` in Secrets Manager or Systems Manager" if prefix else ""
        message = (
            f"unknown secret `{name}`: set NOETL_SECRET_{name}, or set NOETL_SECRETS_DIR to a folder with"
            f" this file{hint}"
        )
        raise ActionError("ParameterError", message, retryable=False)
    REVEALED_SECRETS.add(value)
    return value


def register_secret_variables(variables: Mapping[str, str]) -> None:
    """Register every `NOETL_SECRET_*` value in `variables` for redaction: a child process gets them."""
    for name, value in variables.items():
        if name.startswith(_VARIABLE_PREFIX):
            REVEALED_SECRETS.add(value)


def pack_references(value: Any) -> dict[str, Any]:
    """Return a JSON value for `value` that keeps its secret references. `unpack_references` is the inverse.

    >>> pack_references({"key": SecretReference("token")})
    {'value': {'key': '***'}, 'secrets': [(['key'], 'token')]}
    """
    references: list[tuple[list[str | int], str]] = []

    def collect(value: Any, path: list[str | int]) -> None:
        if isinstance(value, SecretReference):
            references.append((path, value.name))
        elif isinstance(value, Mapping):
            for key, item in value.items():
                collect(item, [*path, key])
        elif isinstance(value, list):
            for index, item in enumerate(value):
                collect(item, [*path, index])

    collect(value, [])
    return {"value": value, "secrets": references}


def unpack_references(packed: Mapping[str, Any]) -> Any:
    """Return the value that `pack_references` packed."""
    value = deepcopy(packed["value"])
    for path, name in packed["secrets"]:
        if not path:
            return SecretReference(name)
        container = value
        for key in path[:-1]:
            container = container[key]
        container[path[-1]] = SecretReference(name)
    return value


def _read_secret_file(path: Path) -> str | None:
    try:
        return path.read_text("utf-8").removesuffix("\n").removesuffix("\r")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        message = f"the file of secret `{path.name}` in NOETL_SECRETS_DIR cannot be read: {reason}"
        raise ActionError("ParameterError", message, retryable=False) from None


class AwsSecrets:
    """A cache of the secrets in AWS. An entry older than `seconds` is fetched again."""

    def __init__(self, seconds: float = 300, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._entries: dict[str, tuple[float, str]] = {}

    def get(self, name: str) -> str | None:
        """Return the value with this full name; None if neither Secrets Manager nor Systems Manager has it.

        Raises:
            ActionError: one service fails, and the other does not have the secret.
        """
        now = self._clock()
        fetched_at, value = self._entries.get(name, (-math.inf, ""))
        if now - fetched_at < self._seconds:
            return value
        problem = None
        for fetch in (_fetch_from_secrets_manager, _fetch_from_parameter_store):
            try:
                value = fetch(name)
            except ActionError as error:
                problem = problem or (None if error.type == "NotFound" else error)
            else:
                self._entries[name] = (now, value)
                return value
        self._entries.pop(name, None)
        if problem is not None:
            raise problem
        return None

    def clear(self) -> None:
        self._entries.clear()


AWS_SECRETS = AwsSecrets()


def database_uri(arn: str) -> str:
    """Return the URI of the database from a secret in Secrets Manager, and redact it from now on.

    The secret is the URI itself, or the JSON that Amazon RDS stores.

    Raises:
        SettingError: the secret has another form.
        StoreError: the secret cannot be read.
    """
    try:
        text = _fetch_from_secrets_manager(arn).strip()
    except ActionError as error:
        raise StoreError(f"The secret of the store (NOETL_STORE) cannot be read: {error.message}") from error
    uri = text if text.startswith(("postgres://", "postgresql://")) else _uri_from_json(text)
    if uri is None:
        message = (
            "The secret of the store (NOETL_STORE) must be a Postgres URI,"
            " postgresql://USER:PASSWORD@HOST/DATABASE, or JSON with `host`, `username`, `password` and"
            " optionally `port` and `dbname`."
        )
        raise SettingError(message)
    REVEALED_SECRETS.add(uri)
    return uri


def _uri_from_json(text: str) -> str | None:
    try:
        entries = json.loads(text)
        host, user, password = (entries[name] for name in ("host", "username", "password"))
        port, database = entries.get("port", 5432), entries.get("dbname", "postgres")
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    user, password, database = (quote(str(part), safe="") for part in (user, password, database))
    return f"postgresql://{user}:{password}@{host}:{port}/{database}"


def _fetch_from_secrets_manager(name: str) -> str:
    from noetl.executor.clients import aws

    def fetch() -> str:
        reply = aws.client("secretsmanager", aws.region_of_arn(name)).get_secret_value(SecretId=name)
        if "SecretString" not in reply:
            raise ActionError("AWSError", f"secret `{name}` in Secrets Manager is not text", retryable=False)
        return str(reply["SecretString"])

    return aws.call_with_timeout(_FETCH_SECONDS, f"secret `{name}` in Secrets Manager", fetch)


def _fetch_from_parameter_store(name: str) -> str:
    from noetl.executor.clients import aws

    def fetch() -> str:
        reply = aws.client("ssm").get_parameter(Name=name, WithDecryption=True)
        return str(reply["Parameter"]["Value"])

    return aws.call_with_timeout(_FETCH_SECONDS, f"parameter `{name}` in Systems Manager", fetch)
