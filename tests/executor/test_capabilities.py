from __future__ import annotations

from pathlib import Path

import pytest

from noetl.executor.errors import SettingError
from noetl.executor.security.capabilities import Capabilities, local_run_capabilities, service_capabilities
from noetl.executor.security.secret_hosts import SecretHosts


def test_a_local_run_has_the_capabilities_of_its_user(tmp_path: Path) -> None:
    assert local_run_capabilities(tmp_path) == Capabilities(
        files_root=tmp_path,
        folder=tmp_path,
        shell=True,
        python_modules=("*",),
        inherit_environment=True,
        networks=("127.0.0.0/8", "::1/128"),
        any_server=True,
        log_bytes=None,
        file_bytes=None,
        command_limits=(),
        secret_hosts=SecretHosts({}, allows_any=True),
    )


@pytest.mark.parametrize(
    "environ", [{}, {"NOETL_ALLOW_SHELL": "0", "NOETL_FILES_ROOT": "", "NOETL_PYTHON_MODULES": " , "}]
)
def test_a_service_allows_nothing_by_default(environ: dict[str, str]) -> None:
    assert service_capabilities(environ) == Capabilities()


def test_settings_of_a_service_grant_capabilities(tmp_path: Path) -> None:
    allowed = service_capabilities(
        {
            "NOETL_FILES_ROOT": str(tmp_path),
            "NOETL_ALLOW_SHELL": "1",
            "NOETL_PYTHON_MODULES": "lib.orders, lib.users",
            "NOETL_ALLOW_NETWORKS": "10.1.0.0/16,fd00:1::/32",
            "NOETL_ALLOW_ACTIONS": "set, http,",
        }
    )
    assert allowed.files_root == tmp_path
    assert allowed.shell
    assert allowed.python_modules == ("lib.orders", "lib.users")
    assert allowed.actions == ("set", "http")
    assert allowed.networks == ("10.1.0.0/16", "fd00:1::/32")
    assert not allowed.inherit_environment
    assert allowed.folder is not None
    assert allowed.folder.is_dir()
    assert allowed.folder != Path.cwd()


@pytest.mark.parametrize("text", ["*", " * ", ""])
def test_all_action_types_may_be_allowed(text: str) -> None:
    assert service_capabilities({"NOETL_ALLOW_ACTIONS": text}).actions is None


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"NOETL_FILES_ROOT": "/dev/null/absent"}, "NOETL_FILES_ROOT"),
        ({"NOETL_ALLOW_SHELL": "yes"}, "NOETL_ALLOW_SHELL"),
        ({"NOETL_ALLOW_ACTIONS": ","}, "NOETL_ALLOW_ACTIONS is ','"),
        ({"NOETL_ALLOW_ACTIONS": "*,http"}, r"NOETL_ALLOW_ACTIONS is '\*,http'"),
        ({"NOETL_ALLOW_NETWORKS": "10.0.0.1/8"}, "NOETL_ALLOW_NETWORKS"),
        ({"NOETL_ALLOW_NETWORKS": "localhost"}, "NOETL_ALLOW_NETWORKS"),
    ],
)
def test_the_error_names_an_invalid_setting(environ: dict[str, str], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        service_capabilities(environ)


@pytest.mark.parametrize("text", ["0", "x", "-1", "1.5", "1048577"])
def test_a_wrong_limit_of_commands_is_refused(text: str) -> None:
    with pytest.raises(SettingError, match="NOETL_COMMAND_MEMORY"):
        service_capabilities({"NOETL_COMMAND_MEMORY": text})


def test_the_limits_of_commands_have_units() -> None:
    limits = dict(service_capabilities({"NOETL_COMMAND_MEMORY": "2"}).command_limits)
    assert limits["RLIMIT_DATA"] == 2 * 1024 * 1024
