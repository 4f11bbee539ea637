"""Folders and buckets that NOETL_TRIGGER_SOURCES gives to one tenant, and actions of another one."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from noetl.executor.errors import ActionError
from noetl.executor.security import allowed_sources
from noetl.executor.security.allowed_sources import SOURCES_SETTING, AllowedSources, read_allowed_sources
from noetl.executor.security.capabilities import Capabilities
from noetl.executor.stores.memory.store import MemoryStore
from noetl.testing.run_harness import RunHarness
from tests.action_calls import perform_action

SERVER = "host=203.0.113.1 dbname=shop"


def capabilities_of(root: Path, rules: str) -> Capabilities:
    environ = {SOURCES_SETTING: rules, "NOETL_EVENT_QUEUE": "https://queue"}
    return Capabilities(files_root=root, trigger_sources=read_allowed_sources(environ))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a folder with one of the tenant acme, a link to it, and a folder without a rule."""
    (tmp_path / "acme/in").mkdir(parents=True)
    (tmp_path / "acme/in/order.json").write_text('{"id": 7}')
    (tmp_path / "public").mkdir()
    (tmp_path / "public/a.json").write_text("{}")
    (tmp_path / "public/link").symlink_to(tmp_path / "acme/in")
    return tmp_path


@pytest.mark.parametrize(
    "parameters",
    [
        *(
            {operation: path, **({"content": "x"} if operation in ("write", "append") else {})}
            for operation in ("read", "write", "append", "delete")
            for path in ("acme/in/order.json", "public/link/order.json", "public/../acme/./in/order.json")
        ),
        {"write": "acme/in/new/deep.json", "content": "x"},
    ],
)
def test_files_in_the_folder_of_another_tenant_are_refused(root: Path, parameters: dict[str, Any]) -> None:
    capabilities = capabilities_of(root, "folder:public; acme/folder:acme/in")
    with pytest.raises(ActionError, match=SOURCES_SETTING) as caught:
        perform_action("file", capabilities=capabilities, **parameters)
    assert (caught.value.type, caught.value.retryable) == ("AccessDenied", False)
    assert [path.name for path in (root / "acme/in").iterdir()] == ["order.json"]
    assert (root / "acme/in/order.json").read_text() == '{"id": 7}'


def test_a_file_takes_no_place_of_the_folder_of_another_tenant(root: Path) -> None:
    capabilities = capabilities_of(root, "acme/folder:later/in")
    for path in ("later", "later/in"):
        with pytest.raises(ActionError, match=SOURCES_SETTING):
            perform_action("file", capabilities=capabilities, write=path, content="x")
    assert not (root / "later").exists()


def test_files_of_another_tenant_are_not_listed(root: Path) -> None:
    capabilities = capabilities_of(root, "acme/folder:acme/in")
    for pattern in ("**/*.json", "*/*/*.json", "acme/in/*", "public/link/*"):
        listed = perform_action("file", capabilities=capabilities, list=pattern)
        assert [path for path in listed if not path.startswith("public/a")] == []


def test_a_link_to_the_folder_of_another_tenant_may_be_deleted(root: Path) -> None:
    capabilities = capabilities_of(root, "acme/folder:acme/in")
    assert perform_action("file", capabilities=capabilities, delete="public/link")["path"] == "public/link"
    assert (root / "acme/in/order.json").exists()


@pytest.mark.parametrize(
    "parameters",
    [
        {"copy_from": {"table": "orders", "file": "acme/in/order.json"}},
        {"copy_to": {"query": "select 1", "file": "acme/in/new.csv"}},
    ],
)
def test_copies_of_postgres_are_refused(root: Path, parameters: dict[str, Any]) -> None:
    capabilities = capabilities_of(root, "acme/folder:acme/in")
    with pytest.raises(ActionError, match=SOURCES_SETTING):
        perform_action("postgres", capabilities=capabilities, connection=SERVER, **parameters)


@pytest.mark.parametrize(
    ("rules", "tenants"),
    [
        ("acme/folder:acme/in", {"acme"}),
        ("acme/folder:acme", {"acme"}),
        ("acme/folder:.", {"acme"}),
        ("acme/folder:acme/in; folder:acme", {"acme", "default"}),
        ("acme/folder:acme/in; beta/folder:acme/in", {"acme", "beta"}),
        ("acme/folder:acme/in2", {"acme", "beta", "default"}),
        ("", {"acme", "beta", "default"}),
    ],
)
def test_a_folder_is_that_of_each_tenant_with_a_rule(root: Path, rules: str, tenants: set[str]) -> None:
    playbook = {
        "name": "read",
        "steps": [{"name": "a", "run": [{"action": "file", "read": "acme/in/order.json"}]}],
    }
    succeeded = set()
    for tenant in ("acme", "beta", "default"):
        harness = RunHarness(MemoryStore(), str(playbook), tenant=tenant)
        harness.capabilities = capabilities_of(root, rules)
        if harness.finish().status == "succeeded":
            succeeded.add(tenant)
    assert succeeded == tenants


@pytest.mark.parametrize(
    ("path", "tenants"),
    [
        ("a", {"acme"}),
        ("a/x", {"acme"}),
        ("a/b", {"acme", "beta"}),
        ("a/b/x", {"acme", "beta"}),
        ("ab", {"acme", "beta", "default"}),
        (".", set()),
    ],
)
def test_a_rule_covers_the_folders_below_it(path: str, tenants: set[str]) -> None:
    sources = AllowedSources({("acme", "folder"): ("a",), ("beta", "folder"): ("a/b",)})
    refused = {
        tenant
        for tenant in ("acme", "beta", "default")
        if sources.path_belongs_to_others(tenant, PurePosixPath(path))
    }
    assert {"acme", "beta", "default"} - refused == tenants


@pytest.mark.parametrize(
    ("path", "tenants"),
    [
        ("Acme/x", {"acme"}),
        ("acme/x", {"beta"}),
        ("ACME/x", set()),
        ("aCME", set()),
        ("Other/X", {"acme"}),
        ("OTHER/x", {"acme"}),
    ],
)
def test_a_folder_with_another_case_may_be_that_of_another_tenant(path: str, tenants: set[str]) -> None:
    """File servers may ignore the case. A tenant may use the folders of its own rules as they are written."""
    sources = AllowedSources(
        {("acme", "folder"): ("Acme", "Other/X", "OTHER"), ("beta", "folder"): ("acme",)}
    )
    everyone = {"acme", "beta", "default"}
    refused = {tenant for tenant in everyone if sources.path_belongs_to_others(tenant, PurePosixPath(path))}
    assert everyone - refused == tenants


def test_a_check_of_a_file_makes_no_path_of_each_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list checks up to a million files. With a path of each of 100 rules, a file would take 1.6 ms."""
    rules = {(f"t{number}", "folder"): (f"t{number}/in", f"t{number}/out") for number in range(100)}
    made = list[str]()

    def make_path(text: str) -> PurePosixPath:
        made.append(text)
        return PurePosixPath(text)

    monkeypatch.setattr(allowed_sources, "PurePosixPath", make_path)
    for tenant, is_refused in (("t0", False), ("default", True)):
        path = PurePosixPath("t0/in/a.csv")
        assert AllowedSources(rules).path_belongs_to_others(tenant, path) is is_refused
    assert len(made) <= 2


QUEUE = "https://sqs.eu-west-1.amazonaws.com/123456789012"


@pytest.mark.parametrize(("kind", "prefix"), [("event", ""), ("sqs", f"{QUEUE}/")])
def test_a_rule_with_another_case_is_of_another_source(kind: allowed_sources.SourceKind, prefix: str) -> None:
    rules: dict[tuple[str, str], tuple[str, ...]] = {
        ("acme", kind): (f"{prefix}Shop",),
        ("beta", kind): (f"{prefix}shop",),
    }
    everyone = {"acme", "beta", "default"}
    for name, tenants in (("Shop", {"acme"}), ("shop", {"beta"}), ("SHOP", everyone)):
        sources = AllowedSources(rules)
        refused = {
            tenant for tenant in everyone if sources.belongs_to_others(tenant, kind, f"{prefix}{name}")
        }
        assert everyone - refused == tenants


@pytest.mark.parametrize("bucket", ["orders", "Orders"])
@pytest.mark.parametrize("operation", ["get", "put", "list", "delete"])
def test_the_bucket_of_another_tenant_is_refused(
    monkeypatch: pytest.MonkeyPatch, root: Path, operation: str, bucket: str
) -> None:
    monkeypatch.setattr("noetl.executor.clients.aws.call_with_timeout", lambda *_: "done")
    parameters: dict[str, Any] = {
        operation: f"s3://{bucket}/a",
        **({"content": "x"} if operation == "put" else {}),
    }
    with pytest.raises(ActionError, match=SOURCES_SETTING) as caught:
        perform_action("s3", capabilities=capabilities_of(root, "acme/s3:orders"), **parameters)
    assert (caught.value.type, caught.value.retryable) == ("AccessDenied", False)
    for rules in ("acme/s3:orders; s3:orders", "acme/s3:orders2"):
        assert perform_action("s3", capabilities=capabilities_of(root, rules), **parameters) == "done"


@pytest.mark.parametrize("path", ["\ud800", "public/\ud800", "x/" * 1_000 + "x"])
@pytest.mark.parametrize("operation", ["read", "write", "append", "list", "delete"])
def test_a_path_that_no_file_system_can_have_is_an_error_of_the_action(
    root: Path, operation: str, path: str
) -> None:
    parameters: dict[str, Any] = {
        operation: path,
        **({"content": "x"} if operation in ("write", "append") else {}),
    }
    with pytest.raises(ActionError) as caught:
        perform_action("file", capabilities=capabilities_of(root, ""), **parameters)
    assert (caught.value.type, caught.value.retryable) == ("FileError", False)
