"""Wrong requests, and the problem documents that answer them.

`python -m tests.api.problem_documents` writes the documents anew. Review the changes before you commit them.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from noetl.api.app import create_app

GOLDEN = Path(__file__).with_name("problem_documents.json")
GREET = """\
name: greet
input: {count: integer}
variables: {seen: 0}
steps: [{name: hello, run: [{action: log, message: "{{ count }}"}]}]
"""


class WrongRequest(NamedTuple):
    """A request that is refused. `body` is sent as it is if it is text, or else as JSON."""

    method: str
    path: str
    body: Any = None
    headers: dict[str, str] = {}  # noqa: RUF012  No request changes it.

    @property
    def title(self) -> str:
        headers = "".join(f" {name}: {value}" for name, value in self.headers.items())
        text = "" if self.body is None else " " + json.dumps(self.body, ensure_ascii=False)
        short_text = text.replace(json.dumps(GREET)[1:-1], "GREET").replace("x" * 101, "x…")[:100]
        return f"{self.method} {self.path}{headers}{short_text}"


def _posts(path: str, *bodies: Any) -> list[WrongRequest]:
    return [WrongRequest("POST", path, body) for body in bodies]


REQUESTS = [
    *_posts(
        "/workflows/run", "", "{", "[1e999]", '{"a": 1, "a": 2}', '{"a": "\\ud800"}', "[" * 101 + "]" * 101
    ),
    *_posts("/workflows/run", [], {}, {"playbok": ""}, {"playbook": "", "zzz": 1}),
    *_posts("/workflows/run", {"playbook": 7}, {"playbook": None}, {"playbook": {"name": 1}}),
    *_posts("/workflows/run", {"playbook": {"name": "nosuch"}}, {"playbook": {"name": "x", "version": 2}}),
    *_posts("/workflows/run", {"playbook": {"name": "greet", "version": "9"}}, {"playbook": "name: x"}),
    *_posts("/workflows/run", {"playbook": "team/greet@9"}, {"playbook": {"name": "greet", "alias": "live"}}),
    *_posts("/workflows/run", {"playbook": GREET, "input": []}, {"playbook": GREET, "variables": "x"}),
    *_posts("/workflows/run", {"playbook": GREET, "tags": "x"}, {"playbook": GREET, "tags": [""]}),
    *_posts(
        "/workflows/run", {"playbook": GREET, "tags": ["x" * 101]}, {"playbook": GREET, "tags": ["x"] * 51}
    ),
    *_posts("/workflows/run", {"playbook": GREET}, {"playbook": GREET, "input": {"count": "x", "more": 1}}),
    *_posts("/workflows/run", {"playbook": GREET, "input": {"count": 1}, "variables": {"none": 1}}),
    *_posts("/workflows/run?input={}", {"playbook": GREET}),
    WrongRequest("POST", "/workflows/run?inptu=1", GREET, {"Content-Type": "application/yaml"}),
    WrongRequest("POST", "/workflows/run?input=[1]", GREET, {"Content-Type": "application/yaml"}),
    WrongRequest("POST", "/workflows/run?input=%7B", GREET, {"Content-Type": "application/yaml"}),
    WrongRequest("POST", "/workflows/run", GREET, {"Content-Type": "text/plain"}),
    WrongRequest("POST", "/workflows/run", GREET, {"Content-Encoding": "gzip"}),
    WrongRequest("POST", "/workflows/run", GREET, {"Idempotency-Key": "é"}),
    *_posts("/plan", {}, {"playbook": {"name": "nosuch"}}, {"playbook": "name: x"}),
    *_posts("/playbooks", {}, {"playbook": 1}, {"playbook": GREET, "input": {}}, {"playbook": "name: x"}),
    *_posts("/playbooks", {"playbook": GREET.replace("greet", "a//b")}),
    WrongRequest("GET", "/playbooks?limit=0"),
    WrongRequest("GET", "/limits?in_use=perhaps"),
    WrongRequest("GET", "/playbooks?cursor=x"),
    WrongRequest("GET", "/playbooks/nosuch"),
    WrongRequest("GET", "/playbooks/nosuch/versions"),
    WrongRequest("DELETE", "/playbooks/greet/versions/9"),
    *(
        WrongRequest("GET", f"/workflows?{query}")
        for query in (
            "status=x",
            "limit=0",
            "limit=x&since=y",
            "since=x",
            "cursor=x",
            "statu=failed",
            "playbook=a&playbook=b",
        )
    ),
    WrongRequest("GET", "/workflows/status/nosuch"),
    WrongRequest("GET", "/workflows/result/nosuch"),
    WrongRequest("GET", "/workflows/nosuch/events"),
    WrongRequest("GET", "/workflows/{done}/events?cursor=x"),
    WrongRequest("GET", "/workflows/{done}/events?limit=1001"),
    WrongRequest("GET", "/workflows/{done}/graph?format=gif"),
    *_posts("/workflows/nosuch/cancel", None),
    *_posts("/workflows/{done}/cancel", None),
    *_posts("/workflows/nosuch/pause", None),
    *_posts("/workflows/{done}/pause", None),
    *_posts("/workflows/{done}/unpause", None),
    *_posts(
        "/workflows/{done}/resume", None, "{", [], {"form": "x"}, {"from": 1}, {"input": 1}, {"from": "helo"}
    ),
    *_posts("/workflows/{done}/resume", {"from": "hello", "input": {"count": "x"}}),
    *_posts("/workflows/{open}/resume", {"input": {"count": 1}}, {"from": "a"}),
    *_posts("/hooks/default/nosuch", None, "{"),
    WrongRequest("PUT", "/hooks/nosuch/orders"),
    WrongRequest("GET", "/hooks/default/orders"),
    *_posts("/workflows/callbacks/nosuch", None, "{"),
    *_posts("/workflows/callbacks/nosuch/heartbeat", None),
    WrongRequest("POST", "/workflows/callbacks/nosuch", "x", {"Content-Type": "text/plain"}),
    WrongRequest("GET", "/workflows/callbacks/secret"),
    WrongRequest("PUT", "/workflows/callbacks/secret"),
    WrongRequest("PUT", "/workflows"),
    WrongRequest("GET", "/nosuch"),
    WrongRequest("GET", "/workflows", None, {"Host": "noetl.example.com"}),
    WrongRequest("GET", "/workflows", None, {"Via": "1.1 proxy"}),
    WrongRequest("POST", "/plan", GREET, {"Origin": "https://example.com"}),
]


async def problem_documents(folder: Path) -> dict[str, Any]:
    """Send all wrong requests to an app with a store in `folder`. Return the documents by the requests."""
    settings = {"NOETL_STORE": f"sqlite:///{folder / 'noetl.db'}", "NOETL_WORKERS": "1"}
    app = create_app(settings)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as client,
    ):
        waiting = "name: open\nsteps: [{name: a, run: [{action: wait, seconds: 3600}]}]"
        bodies = {"done": {"playbook": GREET, "input": {"count": 1}}, "open": {"playbook": waiting}}
        ids = {}
        for name, body in bodies.items():
            response = await client.post(
                "/workflows/run", json=body, headers={"Prefer": f"wait={9 * (name == 'done')}"}
            )
            ids[name] = response.json()["workflow_id"]
        await client.post("/playbooks", json={"playbook": GREET})
        return {request.title: await _document(client, request, ids) for request in REQUESTS}


async def _document(client: httpx.AsyncClient, request: WrongRequest, ids: dict[str, str]) -> Any:
    path = request.path
    for name, id in ids.items():
        path = path.replace(f"{{{name}}}", id)
    text = request.body if isinstance(request.body, str) else json.dumps(request.body)
    content = None if request.body is None else text.encode()
    headers = (
        {"Content-Type": "application/json"} | request.headers if content is not None else request.headers
    )
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    response = await client.request(request.method, path, content=content, headers=encoded)
    assert response.headers["content-type"] == "application/problem+json", request
    document = response.text
    for name, id in ids.items():
        document = document.replace(id, f"{{{name}}}")
    return json.loads(document)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        documents = asyncio.run(problem_documents(Path(folder)))
    GOLDEN.write_text(json.dumps(documents, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
