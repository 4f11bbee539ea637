"""Sources of secrets: the environment, a folder, AWS Secrets Manager and Systems Manager.

A secret travels through the executor as a reference, by name. Its value is read only when it is rendered into
a parameter that accepts secrets (`noetl.executor.security.secret_access`). From then on it is redacted
(`noetl.executor.security.redaction`).

A secret belongs to one tenant. The names of other tenants than `default` are written so that no two tenants
and no two secrets have the same place: see `encode_tenant`.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import quote

from noetl.executor.errors import ActionError, SettingError, StoreError
from noetl.executor.model.run import DEFAULT_TENANT
from noetl.executor.security.log_redaction import redact_log_records
from noetl.executor.security.redaction import MASK, REVEALED_SECRETS
from noetl.planner.diagnostics.wording import quote_text

_FETCH_SECONDS = 20
_VARIABLE_PREFIX = "NOETL_SECRET_"
_TENANT_PREFIX = "NOETL_TENANT_SECRET_"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NOT_IN_VARIABLES = re.compile(r"[^A-Za-z0-9]")
_NOT_IN_PATHS = re.compile(r"[^A-Za-z0-9.-]|^[.-]")
_ESCAPE = re.compile(rb"_([0-9a-f]{2})")


class SecretReference(str):
    """A reference to a secret, by name. As text it is the mask, so text operations never see the value."""

    __slots__ = ("name",)
    name: str

    def __new__(cls, name: str) -> Self:
        secret = super().__new__(cls, MASK)
        secret.name = name
        return secret

    def __reduce__(self) -> tuple[type[SecretReference], tuple[str]]:
        return SecretReference, (self.name,)


def resolve_secret(name: str, environ: Mapping[str, str] = os.environ, tenant: str = DEFAULT_TENANT) -> str:
    """Return the value of a secret from the first source that has it, and redact it from now on.

    The sources, in order:

    1. the variable `NOETL_SECRET_<name>`,
    2. the file `<name>` in the folder `NOETL_SECRETS_DIR`,
    3. with `NOETL_SECRETS_PREFIX`: `<prefix><name>` in AWS Secrets Manager,
    4. with `NOETL_SECRETS_PREFIX`: `<prefix><name>` in the parameter store of AWS Systems Manager, with a
       slash before it if it contains one.

    Those of another tenant than `default` have the variable `NOETL_TENANT_SECRET_TENANT__NAME`, and
    `<tenant>/<name>` instead of the name, with the tenant in its written form.

    Raises:
        ActionError: `ParameterError` if no source has it; else the error of a source, such as `AccessDenied`.
    """
    if not _NAME.fullmatch(name):
        message = f"{quote_text(name)} is not a valid name of a secret"
        raise ActionError("ParameterError", message, retryable=False)
    place = _place_of(name, tenant)
    value = environ.get(place.variable)
    folder, prefix = environ.get("NOETL_SECRETS_DIR"), environ.get("NOETL_SECRETS_PREFIX", "")
    if value is None and folder:
        value = _read_secret_file(Path(folder), place.path)
    if value is None and prefix:
        value = AWS_SECRETS.get(prefix + "/".join(place.path))
    if value is None:
        raise _unknown_secret(name, place, prefix)
    REVEALED_SECRETS.add(value, tenant)
    return value


class _SecretPlace(NamedTuple):
    """The place of a secret in each source: its variable, and its path below a folder or prefix."""

    variable: str
    path: tuple[str, ...]


def _place_of(name: str, tenant: str) -> _SecretPlace:
    if tenant == DEFAULT_TENANT:
        return _SecretPlace(f"{_VARIABLE_PREFIX}{name}", (name,))
    variable = f"{_TENANT_PREFIX}{encode_tenant(tenant, _NOT_IN_VARIABLES)}__{name}"
    return _SecretPlace(variable, (encode_tenant(tenant, _NOT_IN_PATHS), name))


def encode_tenant(tenant: str, replaced: re.Pattern[str] = _NOT_IN_PATHS) -> str:
    """Return the written form of a tenant, in which each byte of another character is `_` and two digits.

    Each `_` is followed by two digits, so the form has no `__`, and different tenants have different forms.

    >>> encode_tenant("acme.eu"), encode_tenant("a_b|c"), encode_tenant("..")
    ('acme.eu', 'a_5fb_7cc', '_2e.')
    >>> encode_tenant("acme.eu", _NOT_IN_VARIABLES)
    'acme_2eeu'
    """
    return replaced.sub(
        lambda match: "".join(f"_{byte:02x}" for byte in match[0].encode("utf-8", "surrogatepass")), tenant
    )


def _decode_tenant(written: str, replaced: re.Pattern[str]) -> str | None:
    """Return the tenant with a written form, or None if no tenant has it.

    >>> _decode_tenant("a_5fb_7cc", _NOT_IN_PATHS), _decode_tenant("a_b", _NOT_IN_PATHS)
    ('a_b|c', None)
    """
    data = written.encode("utf-8", "surrogatepass")
    try:
        tenant = _ESCAPE.sub(lambda found: bytes.fromhex(found[1].decode()), data).decode(
            "utf-8", "surrogatepass"
        )
    except UnicodeDecodeError:
        return None
    return tenant if tenant and encode_tenant(tenant, replaced) == written else None


def _unknown_secret(name: str, place: _SecretPlace, prefix: str) -> ActionError:
    """Return the error for a secret that no source has. It names the settings for the tenant."""
    path = "/".join(place.path)
    file = "this file" if len(place.path) == 1 else f"the file {path}"
    hint = f", or store it as `{prefix}{path}` in Secrets Manager or Systems Manager" if prefix else ""
    message = (
        f"unknown secret `{name}`: set {place.variable}, or set NOETL_SECRETS_DIR to a folder with"
        f" {file}{hint}"
    )
    return ActionError("ParameterError", message, retryable=False)


def register_secret_variables(variables: Mapping[str, str], tenant: str | None = None) -> None:
    """Register the value of every secret in `variables` for redaction.

    They belong to a tenant if it is given, else to those in their names.
    """
    for name, value in variables.items():
        if tenant is not None and name.startswith((_VARIABLE_PREFIX, _TENANT_PREFIX)):
            REVEALED_SECRETS.add(value, tenant)
        elif name.startswith(_VARIABLE_PREFIX):
            REVEALED_SECRETS.add(value, DEFAULT_TENANT)
        elif name.startswith(_TENANT_PREFIX):
            written = name.removeprefix(_TENANT_PREFIX).partition("__")[0]
            REVEALED_SECRETS.add(value, _decode_tenant(written, _NOT_IN_VARIABLES))


def register_local_secrets(environ: Mapping[str, str] = os.environ) -> None:
    """Register the secrets of the environment and of `NOETL_SECRETS_DIR` for redaction, also in all logs.

    So they are redacted also in a process that has not revealed them. Such a process may receive an answer
    with the value, or it was restarted while a step waited.
    """
    redact_log_records()
    register_secret_variables(environ)
    folder = environ.get("NOETL_SECRETS_DIR")
    if not folder:
        return
    # A folder whose name begins with a dot is of no tenant. A volume of Kubernetes keeps its versions there.
    for path in (*Path(folder).glob("*"), *Path(folder).glob("[!.]*/*")):
        is_default = path.parent == Path(folder)
        tenant = DEFAULT_TENANT if is_default else _decode_tenant(path.parent.name, _NOT_IN_PATHS)
        if _NAME.fullmatch(path.name) and path.is_file():
            with suppress(OSError, UnicodeDecodeError):
                REVEALED_SECRETS.add(_content_of(path), tenant)


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


def _read_secret_file(folder: Path, path: tuple[str, ...]) -> str | None:
    """Return the content of the file at a path below a folder, or None if there is no such file.

    Each part of the path must have exactly the name that the folder lists, because a file system may ignore
    case. A folder with the name of the secret is that of a tenant, and counts as missing.
    """
    try:
        for part in path:
            if part not in {entry.name for entry in folder.iterdir()}:
                return None
            folder /= part
        return _content_of(folder)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        message = f"the file of secret `{path[-1]}` in NOETL_SECRETS_DIR cannot be read: {reason}"
        raise ActionError("ParameterError", message, retryable=False) from None


def _content_of(path: Path) -> str:
    return path.read_text("utf-8").removesuffix("\n").removesuffix("\r")


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

    # Systems Manager refuses a name with a slash that does not begin with one.
    path = f"/{name.removeprefix('/')}" if "/" in name else name

    def fetch() -> str:
        reply = aws.client("ssm").get_parameter(Name=path, WithDecryption=True)
        return str(reply["Parameter"]["Value"])

    return aws.call_with_timeout(_FETCH_SECONDS, f"parameter `{path}` in Systems Manager", fetch)
