"""Where secrets come from: environment, files, Secrets Manager and Parameter Store."""

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
_VARIABLE = "NOETL_SECRET_"
"""What the names of variables begin with that hold secrets."""
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class SecretReference(str):
    """A secret by name. Whatever is done with it as text is done with stars."""

    __slots__ = ("name",)
    name: str

    def __new__(cls, name: str) -> Self:
        secret = super().__new__(cls, MASK)
        secret.name = name
        return secret

    def reveal(self, environ: Mapping[str, str] = os.environ) -> str:
        """Its value, which is scrubbed from now on. Raises as `resolve` does."""
        return resolve_secret(self.name, environ)

    def __reduce__(self) -> tuple[type[SecretReference], tuple[str]]:
        return SecretReference, (self.name,)


def resolve_secret(name: str, environ: Mapping[str, str] = os.environ) -> str:
    """The value of a secret, from the first of these that has it.

    They are the variable `NOETL_SECRET_<name>`, the file `<name>` in `NOETL_SECRETS_DIR`, and where `NOETL_SECRETS_PREFIX` is
    set, what is named by it and `<name>` in AWS Secrets Manager and in the parameter store of Systems Manager.

    Raises:
        ActionError: `ParameterError` when there is none; else what keeps an existing one away, such as `AccessDenied`.
    """
    if not _NAME.fullmatch(name):
        raise ActionError("ParameterError", f"{name!r} is not the name of a secret", retryable=False)
    value = environ.get(f"{_VARIABLE}{name}")
    if value is None and (folder := environ.get("NOETL_SECRETS_DIR")):
        value = _read(Path(folder, name))
    prefix = environ.get("NOETL_SECRETS_PREFIX", "")
    if value is None and prefix:
        value = AWS_SECRETS.get(f"{prefix}{name}")
    if value is None:
        stored = f", or store it as `{prefix}{name}` in Secrets Manager or Systems Manager" if prefix else ""
        raise ActionError(
            "ParameterError",
            f"there is no secret `{name}`: set NOETL_SECRET_{name}, or NOETL_SECRETS_DIR to a folder with such a file"
            + stored,
            retryable=False,
        )
    REVEALED_SECRETS.add(value)
    return value


def register_secret_variables(variables: Mapping[str, str]) -> None:
    """Know from now on the secrets among variables that somebody is given, and may tell."""
    for name, value in variables.items():
        if name.startswith(_VARIABLE):
            REVEALED_SECRETS.add(value)


def pack_references(value: Any) -> dict[str, Any]:
    """A plain value with secrets in it, as data that `unfold` makes the same of: the secrets stand beside it, by name."""
    places: list[tuple[list[str | int], str]] = []

    def find(value: Any, place: list[str | int]) -> None:
        if isinstance(value, SecretReference):
            places.append((place, value.name))
        elif isinstance(value, Mapping):
            for key, item in value.items():
                find(item, [*place, key])
        elif isinstance(value, list):
            for index, item in enumerate(value):
                find(item, [*place, index])

    find(value, [])
    return {"value": value, "secrets": places}


def unpack_references(folded: Mapping[str, Any]) -> Any:
    """The value that `fold` was given."""
    value = deepcopy(folded["value"])
    for place, name in folded["secrets"]:
        if not place:
            return SecretReference(name)
        inside = value
        for key in place[:-1]:
            inside = inside[key]
        inside[place[-1]] = SecretReference(name)
    return value


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8").removesuffix("\n").removesuffix("\r")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        message = f"the file of the secret `{path.name}` in NOETL_SECRETS_DIR cannot be read: {reason}"
        raise ActionError("ParameterError", message, retryable=False) from None


class AwsSecrets:
    """Secrets that AWS keeps. What was found is asked for again when it is older than `seconds`."""

    def __init__(self, seconds: float = 300, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._found: dict[str, tuple[float, str]] = {}

    def get(self, name: str) -> str | None:
        """The value under its whole name, or None when neither Secrets Manager nor Systems Manager has it.

        Raises:
            ActionError: one of them cannot be asked, and the other does not have it.
        """
        now = self._clock()
        at, value = self._found.get(name, (-math.inf, ""))
        if now - at < self._seconds:
            return value
        problem = None
        for fetch in (_from_secrets_manager, _from_parameter_store):
            try:
                value = fetch(name)
            except ActionError as error:
                problem = problem or (None if error.type == "NotFound" else error)
            else:
                self._found[name] = (now, value)
                return value
        self._found.pop(name, None)
        if problem is not None:
            raise problem
        return None

    def clear(self) -> None:
        self._found.clear()


AWS_SECRETS = AwsSecrets()


def database_uri(arn: str) -> str:
    """The URI of the database whose address and password a secret in Secrets Manager holds: as such, or as the JSON that Amazon
    RDS keeps there. It is scrubbed from now on.

    Raises:
        SettingError: the secret holds something else.
        StoreError: it cannot be read.
    """
    try:
        text = _from_secrets_manager(arn).strip()
    except ActionError as error:
        raise StoreError(f"The secret of the store (NOETL_STORE) cannot be read: {error.message}") from error
    uri = text if text.startswith(("postgres://", "postgresql://")) else _uri_of_json(text)
    if uri is None:
        message = (
            "The secret of the store (NOETL_STORE) must hold a URI of Postgres, postgresql://USER:PASSWORD@HOST/DATABASE, or"
            " JSON with `host`, `username`, `password` and perhaps `port` and `dbname`."
        )
        raise SettingError(message)
    REVEALED_SECRETS.add(uri)
    return uri


def _uri_of_json(text: str) -> str | None:
    try:
        found = json.loads(text)
        host, user, password = (found[name] for name in ("host", "username", "password"))
        port, database = found.get("port", 5432), found.get("dbname", "postgres")
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    user, password, database = (quote(str(part), safe="") for part in (user, password, database))
    return f"postgresql://{user}:{password}@{host}:{port}/{database}"


def _from_secrets_manager(name: str) -> str:
    from noetl.executor.clients import aws

    def fetch() -> str:
        answer = aws.client("secretsmanager", aws.region_of_arn(name)).get_secret_value(SecretId=name)
        if "SecretString" not in answer:
            raise ActionError(
                "AWSError", f"the secret `{name}` in Secrets Manager is not text", retryable=False
            )
        return str(answer["SecretString"])

    return aws.call_with_timeout(_FETCH_SECONDS, f"the secret `{name}` in Secrets Manager", fetch)


def _from_parameter_store(name: str) -> str:
    from noetl.executor.clients import aws

    def fetch() -> str:
        return str(aws.client("ssm").get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"])

    return aws.call_with_timeout(_FETCH_SECONDS, f"the parameter `{name}` in Systems Manager", fetch)
