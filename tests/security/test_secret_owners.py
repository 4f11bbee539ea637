"""A secret belongs to one tenant: no name of a tenant or a secret reaches the secret of another."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from noetl.executor.actions._process import build_environment
from noetl.executor.errors import ActionError
from noetl.executor.security import secret_sources
from noetl.executor.security.redaction import MASK, RevealedSecrets, redact, redacting_for
from noetl.executor.security.secret_sources import (
    encode_tenant,
    register_local_secrets,
    register_secret_variables,
    resolve_secret,
)
from noetl.planner.frozen import replace
from tests.action_calls import create_call
from tests.aws import Client

TENANTS = [
    "default",
    "Default",
    "DEFAULT",
    "acme",
    "Acme",
    "ACME",
    "acme.",
    ".acme",
    "acme.eu",
    "acme_eu",
    "acme-eu",
    "acme_2eeu",
    "acme__TOKEN",
    "acme__TOKEN__TOKEN",
    "acme_",
    "_acme",
    "__",
    "acme/TOKEN",
    "acme/",
    "/acme",
    "/",
    "..",
    ".",
    "../acme",
    "acme/..",
    "acme/../default",
    "a:b",
    "a|b",
    "a@b",
    "acmé",
    "acmé",
    "ａｃｍｅ",
    "acme\x00",
    "acme\n",
    "acme ",
    "",
    "TOKEN",
    "*",
    "%61cme",
    "~",
    "\ud800",
    "acme\\TOKEN",
    "I",
    "ı",
    "K",
    "K",
]
"""Names of tenants, most of which no key can have. Some differ only in case, form or a separator."""

NAMES = ["TOKEN", "token", "acme", "TOKEN__TOKEN", "_TOKEN", "__TOKEN", "TOKEN_", "default", "K", "_2e"]


def _refusal(name: str, environ: dict[str, str], tenant: str) -> str:
    with pytest.raises(ActionError) as caught:
        resolve_secret(name, environ, tenant)
    assert (caught.value.type, caught.value.retryable) == ("ParameterError", False)
    return caught.value.message


def _owners() -> Iterator[tuple[str, str]]:
    return itertools.product(TENANTS, NAMES)


def test_no_two_secrets_have_the_same_place() -> None:
    places = {owner: secret_sources._place_of(owner[1], owner[0]) for owner in _owners()}
    assert len({place.variable for place in places.values()}) == len(places)
    assert len({place.path for place in places.values()}) == len(places)
    assert len({"/".join(place.path) for place in places.values()}) == len(places)
    variables = [place.variable for place in places.values()]
    assert all(name.isascii() and name.replace("_", "").isalnum() for name in variables)
    assert not any(
        part in ("", ".", "..") or "/" in part or "\0" in part
        for place in places.values()
        for part in place.path
        if part
    )


def test_each_tenant_reads_its_own_variables_only() -> None:
    environ = {
        secret_sources._place_of(name, tenant).variable: f"{name} of {tenant!r}" for tenant, name in _owners()
    }
    for tenant, name in _owners():
        assert resolve_secret(name, environ, tenant) == f"{name} of {tenant!r}"
        variable = secret_sources._place_of(name, tenant).variable
        without_it = {key: value for key, value in environ.items() if key != variable}
        assert variable in _refusal(name, without_it, tenant)


def test_each_tenant_reads_its_own_files_only(tmp_path: Path) -> None:
    environ = {"NOETL_SECRETS_DIR": str(tmp_path)}
    for tenant, name in (("default", "TOKEN"), ("acme", "TOKEN"), ("acme.eu", "KEY")):
        folder = tmp_path if tenant == "default" else tmp_path / encode_tenant(tenant)
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(f"{name} of {tenant}\n")
    owned = [("default", "TOKEN"), ("acme", "TOKEN"), ("acme.eu", "KEY")]
    for tenant, name in itertools.product(TENANTS, ("TOKEN", "KEY", "acme")):
        if (tenant, name) in owned:
            assert resolve_secret(name, environ, tenant) == f"{name} of {tenant}"
        else:
            assert "unknown secret" in _refusal(name, environ, tenant)


@pytest.mark.parametrize(("tenant", "name"), [("ACME", "TOKEN"), ("acme", "token"), ("default", "Token")])
def test_a_file_system_that_ignores_case_gives_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tenant: str, name: str
) -> None:
    (tmp_path / "acme").mkdir()
    for path in (tmp_path / "acme" / "TOKEN", tmp_path / "TOKEN"):
        path.write_text("value of a file")
    monkeypatch.setattr(secret_sources, "_content_of", str)
    assert "unknown secret" in _refusal(name, {"NOETL_SECRETS_DIR": str(tmp_path)}, tenant)


def test_a_missing_secret_names_the_settings_of_its_tenant_and_nothing_of_others(tmp_path: Path) -> None:
    (tmp_path / "beta").mkdir()
    (tmp_path / "beta" / "TOKEN").write_text("of beta")
    empty = {"NOETL_SECRETS_DIR": str(tmp_path / "beta"), "HOME": "/"}
    full = {
        "NOETL_SECRETS_DIR": str(tmp_path),
        "NOETL_SECRET_TOKEN": "of default",
        "NOETL_TENANT_SECRET_beta__TOKEN": "of beta",
    }
    message = _refusal("TOKEN", full, "acme.eu")
    assert "NOETL_TENANT_SECRET_acme_2eeu__TOKEN" in message and "acme.eu/TOKEN" in message
    assert message == _refusal("TOKEN", empty | {"NOETL_SECRETS_DIR": str(tmp_path / "beta")}, "acme.eu")
    assert "beta" not in message


def test_a_folder_of_a_tenant_looks_like_a_missing_secret(tmp_path: Path) -> None:
    (tmp_path / "acme").mkdir()
    environ = {"NOETL_SECRETS_DIR": str(tmp_path)}
    assert _refusal("acme", environ, "default") == _refusal("beta", environ, "default").replace(
        "beta", "acme"
    )


@pytest.fixture
def store_in_aws(aws: Client, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    monkeypatch.setenv("NOETL_SECRETS_PREFIX", "shop/")
    yield lambda name, value: aws("secretsmanager").create_secret(Name=f"shop/{name}", SecretString=value)
    secret_sources.AWS_SECRETS.clear()


def test_each_tenant_reads_its_own_secrets_in_aws_only(store_in_aws: Callable[[str, str], None]) -> None:
    store_in_aws("TOKEN", "of default")
    store_in_aws("acme/TOKEN", "of acme")
    store_in_aws("a_7cb/KEY", "of a|b")
    assert resolve_secret("TOKEN") == "of default"
    assert resolve_secret("TOKEN", tenant="acme") == "of acme"
    assert resolve_secret("KEY", tenant="a|b") == "of a|b"
    for tenant, name in (
        ("acme", "KEY"),
        ("ACME", "TOKEN"),
        ("a_7cb", "KEY"),
        ("default", "KEY"),
        ("..", "TOKEN"),
    ):
        with pytest.raises(ActionError, match=f"unknown secret `{name}`"):
            resolve_secret(name, tenant=tenant)


def test_local_secrets_are_redacted_before_they_are_revealed(tmp_path: Path) -> None:
    (tmp_path / "acme").mkdir()
    (tmp_path / "acme" / "A").write_text("known-from-a-tenants-file\n")
    (tmp_path / "B").write_text("known-from-a-file")
    (tmp_path / "C").write_bytes(b"\xff")
    register_local_secrets(
        {"NOETL_SECRETS_DIR": str(tmp_path), "NOETL_SECRET_D": "known-from-the-environment"}
    )
    register_secret_variables({"NOETL_TENANT_SECRET_acme__E": "known-from-a-tenants-variable"})
    texts = [
        "known-from-a-tenants-file",
        "known-from-a-file",
        "known-from-the-environment",
        "known-from-a-tenants-variable",
    ]
    assert redact(texts) == [MASK] * 4


def test_work_for_a_tenant_is_searched_for_its_own_secrets_only(tmp_path: Path) -> None:
    """Otherwise a mask would show a tenant that it has guessed the secret of another one."""
    tenants = [tenant for tenant in TENANTS if tenant]
    variables = {
        secret_sources._place_of("TOKEN", tenant).variable: f"the variable of {number:03}"
        for number, tenant in enumerate(tenants)
    }
    register_secret_variables(variables)
    for tenant, name in (("default", "TOKEN"), ("acme", "TOKEN"), ("acme.eu", "KEY")):
        folder = tmp_path if tenant == "default" else tmp_path / encode_tenant(tenant)
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(f"<{tenant}> has this file")
    register_local_secrets({"NOETL_SECRETS_DIR": str(tmp_path)})
    texts = [*variables.values(), *(f"<{tenant}> has this file" for tenant in ("default", "acme", "acme.eu"))]
    for number, tenant in enumerate(tenants):
        found = {f"the variable of {number:03}", f"<{tenant}> has this file"}
        with redacting_for(tenant):
            assert redact(texts) == [MASK if text in found else text for text in texts]
            with redacting_for(None):
                assert redact(texts) == [MASK] * len(texts)
    with redacting_for("a tenant without secrets"):
        assert redact(texts) == texts


def test_a_tenant_cannot_guess_the_password_of_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    uri = "postgresql://noetl:a-password-of-the-store@db/noetl"
    monkeypatch.setattr(secret_sources, "_fetch_from_secrets_manager", lambda _: uri)
    secret_sources.database_uri("arn")
    register_secret_variables({"NOETL_TENANT_SECRET_acme__TOKEN": "a-secret-of-acme"})
    guess = "is it a-password-of-the-store?"
    for tenant in ("acme", "zoo"):
        with redacting_for(tenant):
            assert redact(guess) == guess
    with redacting_for(None):
        assert redact([guess, uri]) == [f"is it {MASK}?", MASK]


def test_earlier_versions_in_a_mounted_volume_are_of_no_tenant(tmp_path: Path) -> None:
    """A volume of Kubernetes has a link for each secret, to a file in a folder with the version."""
    (tmp_path / "..2026_12_02").mkdir()
    (tmp_path / "..2026_12_02" / "TOKEN").write_text("a-secret-in-a-volume")
    (tmp_path / "..data").symlink_to("..2026_12_02")
    (tmp_path / "TOKEN").symlink_to("..data/TOKEN")
    register_local_secrets({"NOETL_SECRETS_DIR": str(tmp_path)})
    for tenant, expected in (("default", MASK), ("acme", "a-secret-in-a-volume")):
        with redacting_for(tenant):
            assert redact("a-secret-in-a-volume") == expected


def test_a_variable_that_a_playbook_gives_belongs_to_its_tenant() -> None:
    call = replace(create_call("shell", {"command": ["true"]}), tenant="acme")
    added = {"NOETL_SECRET_A": "given-as-of-default", "NOETL_TENANT_SECRET_zoo__B": "as-of-zoo"}
    build_environment(call, added)
    for tenant, expected in (("acme", [MASK, MASK]), ("zoo", ["given-as-of-default", "as-of-zoo"])):
        with redacting_for(tenant):
            assert redact(["given-as-of-default", "as-of-zoo"]) == expected


@pytest.mark.parametrize("written", ["a_b", ""])
def test_a_secret_of_no_possible_tenant_is_searched_in_logs(written: str) -> None:
    register_secret_variables({f"NOETL_TENANT_SECRET_{written}__TOKEN": "of-no-tenant-that-can-be"})
    with redacting_for("acme"):
        assert redact("of-no-tenant-that-can-be") == "of-no-tenant-that-can-be"
    assert redact("of-no-tenant-that-can-be") == MASK


def test_a_secret_of_two_tenants_is_searched_for_both() -> None:
    secrets = RevealedSecrets(limit=3)
    for tenant in ("a", "b"):
        secrets.add("the-same-secret", tenant)
    with redacting_for("a"):
        assert secrets.redact("the-same-secret") == MASK
    for number in range(3):
        secrets.add(f"secret-{number}", "b")  # Of those of `b`, the oldest is forgotten.
    with redacting_for("a"):
        assert secrets.redact("the-same-secret") == MASK
    with redacting_for("b"):
        assert secrets.redact("the-same-secret") == "the-same-secret"
    assert secrets.redact("the-same-secret") == MASK
