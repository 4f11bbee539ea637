"""`noetl submit NAME@VERSION`: a playbook that the service has registered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.api.cli.conftest import Command
from tests.e2e.test_serve import YAML, run_service
from tests.http_server import serve

pytestmark = pytest.mark.xdist_group(
    "service of submit_registered"
)  # The fixture of the module is made once.

TEXT = """\
name: {name}
version: "{version}"
input: {{n: string}}
steps: [{{name: a, run: [{{action: set, set: {{found: "{version} {{{{ input.n }}}}"}}}}]}}]
output: {{found: "{{{{ found }}}}"}}
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a service with two versions of `pay`, and one of a name that must be quoted."""
    with run_service(tmp_path_factory.mktemp("service")) as (_, address):
        for name, version in (("pay", "1"), ("pay", "2@b"), ("team/a b@c", "1")):
            text = TEXT.format(name=json.dumps(name), version=version)
            response = httpx.post(f"{address}/playbooks", content=text, headers=YAML, timeout=60)
            assert response.status_code == 201, response.text
        yield address


@pytest.mark.parametrize(("text", "version"), [("pay", "2@b"), ("pay@1", "1"), ("team/a b@c@1", "1")])
def test_a_registered_playbook_is_started(noetl: Command, url: str, text: str, version: str) -> None:
    """The value of the input is a text, because the registered playbook declares it."""
    result = noetl("submit", text, "--url", url, "-i", "n=07", "--wait")
    assert (result.exit_code, json.loads(result.out)) == (0, {"found": f"{version} 07"})


def test_a_file_of_the_name_wins(noetl: Command, url: str, folder: Path) -> None:
    (folder / "pay").write_text(TEXT.format(name="pay", version="of the file"))
    result = noetl("submit", "pay", "--url", url, "-i", "n=7", "--wait")
    assert json.loads(result.out) == {"found": "of the file 7"}


@pytest.mark.parametrize("text", ["pey", "pay@3", "@", "pay@", "no\x1b[31m"])
def test_an_unknown_name_is_one_sentence(noetl: Command, url: str, text: str) -> None:
    result = noetl("submit", text, "--url", url)
    assert (result.exit_code, result.out, result.err.count("\n")) == (2, "", 1)
    shown = text.replace("\x1b", "␛")
    assert result.err.startswith(f"noetl: there is no file {shown}, and {url.removeprefix('http://')} says: ")


def test_a_missing_file_is_no_name(noetl: Command, url: str, folder: Path) -> None:
    assert "cannot read pay.yaml" in noetl("submit", "pay.yaml", "--url", url).err
    (folder / "sub").mkdir()
    assert "cannot read sub: Is a directory" in noetl("submit", "sub", "--url", url).err


@pytest.mark.parametrize("body", [[], {}, {"name": "pay", "version": "1", "source": 7}])
def test_another_server_is_one_sentence(noetl: Command, body: object) -> None:
    with serve(lambda exchange: exchange.reply_json(body)) as server:
        result = noetl("submit", "pay", "--url", server.url(""))
    assert (result.exit_code, result.err.count("\n")) == (1, 1)
    assert "unlike a NoETL service; check --url" in result.err
