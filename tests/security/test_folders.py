"""Files of the operator that playbooks must not reach, and names that look like others."""

from __future__ import annotations

import re
import stat
from pathlib import Path
from typing import Any

import pytest
import yaml

from noetl.executor.actions.log import MAX_LINE_LENGTH
from noetl.executor.errors import ActionError, SettingError
from noetl.executor.security.capabilities import Capabilities, service_capabilities
from noetl.executor.stores.sqlite.store import SqliteStore
from noetl.testing.actions import ActionTester
from tests.action_calls import perform_action


@pytest.mark.parametrize(
    ("root", "secrets", "store", "setting"),
    [
        ("a", "a/b", "x/s.db", "NOETL_SECRETS_DIR"),
        ("a/b", "a", "x/s.db", "NOETL_SECRETS_DIR"),
        ("a", "a", "x/s.db", "NOETL_SECRETS_DIR"),
        ("a", "b", "a/b/s.db", "NOETL_STORE"),
        ("a/b", "b", "a/s.db", "NOETL_STORE"),
        ("a", "a/../a/b", "x/s.db", "NOETL_SECRETS_DIR"),
        ("link", "a/b", "x/s.db", "NOETL_SECRETS_DIR"),
    ],
)
def test_the_folders_of_files_store_and_secrets_must_not_overlap(
    tmp_path: Path, root: str, secrets: str, store: str, setting: str
) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    environ = {
        "NOETL_FILES_ROOT": str(tmp_path / root),
        "NOETL_SECRETS_DIR": str(tmp_path / secrets),
        "NOETL_STORE": f"sqlite:///{tmp_path / store}",
    }
    with pytest.raises(SettingError) as caught:
        service_capabilities(environ)
    assert "NOETL_FILES_ROOT" in str(caught.value)
    assert setting in str(caught.value)


def test_folders_next_to_each_other_are_allowed(tmp_path: Path) -> None:
    for name in ("files", "secrets", "files2"):
        (tmp_path / name).mkdir()
    environ = {
        "NOETL_FILES_ROOT": str(tmp_path / "files"),
        "NOETL_SECRETS_DIR": str(tmp_path / "secrets"),
        "NOETL_STORE": f"sqlite:///{tmp_path / 'files2/s.db'}",
    }
    assert service_capabilities(environ).files_root == tmp_path / "files"


def test_the_default_store_must_not_lie_in_the_folder_of_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingError, match="NOETL_STORE"):
        service_capabilities({"NOETL_FILES_ROOT": "."})


@pytest.mark.parametrize("root", ["/", "/proc", "/proc/self", "/sys", "/dev", "/dev/shm", "link"])
def test_folders_of_the_system_are_no_folders_of_files(tmp_path: Path, root: str) -> None:
    (tmp_path / "link").symlink_to("/")
    environ = {"NOETL_FILES_ROOT": str(tmp_path / root), "NOETL_STORE": "memory://"}
    if not Path(environ["NOETL_FILES_ROOT"]).is_dir():
        pytest.skip("this system has no such folder")
    with pytest.raises(SettingError, match=r"NOETL_FILES_ROOT is .*, which overlaps with '/"):
        service_capabilities(environ)


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="this system has no /proc")
@pytest.mark.parametrize(
    ("root", "parameters"),
    [
        ("/proc/self", {"read": "environ"}),
        ("/proc/self", {"append": "oom_score_adj", "content": "0"}),
        ("/dev", {"read": "null"}),
    ],
)
def test_a_file_of_the_kernel_is_not_a_file(root: str, parameters: dict[str, Any]) -> None:
    """A file system of the kernel may also be mounted below the folder of the files."""
    with pytest.raises(ActionError, match="not a file") as caught:
        perform_action("file", capabilities=Capabilities(files_root=Path(root)), **parameters)
    assert caught.value.type == "FileError"


def test_a_missing_folder_of_secrets_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"NOETL_SECRETS_DIR is .*; it must be an existing folder"):
        service_capabilities({"NOETL_SECRETS_DIR": str(tmp_path / "none")})


def test_only_the_owner_may_read_a_store(tmp_path: Path) -> None:
    store = SqliteStore(str(tmp_path / "folder/noetl.db"))
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "folder").glob("noetl.db*")}
    store.close()
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o700
    assert set(modes.values()) == {0o600}
    assert "noetl.db" in modes


@pytest.mark.parametrize("operation", ["read", "write", "append", "list", "delete"])
@pytest.mark.parametrize("path", ["a\0b", "\0", "a/\0/b", "a\0/../../x"])
def test_a_path_with_nul_is_invalid(tmp_path: Path, operation: str, path: str) -> None:
    parameters: dict[str, Any] = {operation: path}
    if operation in ("write", "append"):
        parameters["content"] = "x"
    with pytest.raises(ActionError) as caught:
        perform_action("file", capabilities=Capabilities(files_root=tmp_path), **parameters)
    assert (caught.value.type, caught.value.retryable) == ("FileError", False)


def test_a_log_line_has_at_most_16_kb() -> None:
    tester = ActionTester("log")
    tester.perform({"message": "x" * 8_000_000, "fields": {"a": "y" * 8_000_000}})
    tester.perform({"message": "short", "fields": {"a": ["z" * 20_000]}})
    tester.perform({"message": "x" * MAX_LINE_LENGTH, "fields": {"a": 1}})
    (_, first, first_fields), (_, second, second_fields), (_, third, third_fields) = tester.logs
    assert len(first) + len(first_fields["cut"]) < 18_000
    assert first.endswith("x… (7,983,616 characters are left out)")
    assert second == "short"
    assert len(second_fields["cut"]) < MAX_LINE_LENGTH + 100
    assert (third, third_fields) == ("x" * MAX_LINE_LENGTH, {"a": 1})


@pytest.mark.parametrize(
    "uri",
    ["s3://other/../ours/k", "s3://ours./k", "s3://other/a/./k", "s3://a..b/k", "s3://other/..\\ours/k"],
)
def test_names_of_objects_that_a_server_might_resolve_are_refused(uri: str) -> None:
    with pytest.raises(ActionError) as caught:
        perform_action("s3", get=uri)
    assert (caught.value.type, caught.value.retryable) == ("ParameterError", False)


def test_the_bucket_of_the_service_is_refused_in_any_case(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOETL_BUCKET", "ours")
    with pytest.raises(ActionError) as caught:
        perform_action("s3", get="s3://OURS/k")
    assert caught.value.type == "AccessDenied"


@pytest.mark.parametrize(
    "function",
    [
        "noetl-StepFunction-abc",
        "NOETL-stepfunction-abc",
        "noetl-ApiFunction-abc:live",
        "123456789012:function:noetl-SweepFunction-abc",
        "arn:aws:lambda:eu-west-1:123456789012:function:noetl-StepFunction-abc",
        "arn:aws:lambda:eu-west-1:123456789012:function:noetl-StepFunction-abc:7",
        "own",
        "own:$LATEST",
    ],
)
def test_the_functions_of_the_service_are_refused(function: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOETL_STACK", "noetl")
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "own")
    with pytest.raises(ActionError) as caught:
        perform_action("lambda", function=function)
    assert (caught.value.type, caught.value.retryable) == ("AccessDenied", False)


@pytest.mark.parametrize(
    ("prefix", "is_allowed"), [("prod", False), ("prod/", True), ("prod-", True), ("", True)]
)
def test_a_prefix_of_secrets_ends_with_a_separator(prefix: str, is_allowed: bool) -> None:
    class Loader(yaml.SafeLoader):
        """A loader that ignores the tags of CloudFormation."""

    Loader.add_multi_constructor("!", lambda loader, suffix, node: None)  # noqa: ARG005
    template = yaml.load(Path("template.yaml").read_text(), Loader)
    pattern = template["Parameters"]["SecretsPrefix"]["AllowedPattern"]
    assert bool(re.search(pattern, prefix)) is is_allowed
    environ = {"NOETL_SECRETS_PREFIX": prefix}
    if is_allowed:
        service_capabilities(environ)
    else:
        with pytest.raises(SettingError, match="NOETL_SECRETS_PREFIX"):
            service_capabilities(environ)


def test_cells_that_start_a_formula_are_escaped(tmp_path: Path) -> None:
    capabilities = Capabilities(files_root=tmp_path)
    rows = [{"a": "=1+1", "b": -5, "c": "plain"}, {"a": "@x", "b": 1, "c": "-x"}]
    parameters: dict[str, Any] = {"content": rows, "format": "csv", "capabilities": capabilities}
    perform_action("file", write="t.csv", escape_formulas=True, **parameters)
    perform_action("file", append="t.csv", escape_formulas=True, **parameters)
    assert (tmp_path / "t.csv").read_text() == "a,b,c\n" + 2 * "'=1+1,-5,plain\n'@x,1,'-x\n"
    perform_action("file", write="t.csv", **parameters)
    assert (tmp_path / "t.csv").read_text().startswith("a,b,c\n=1+1")
