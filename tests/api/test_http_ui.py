"""Routes of the page: its document, its files, and where a browser is sent."""

from __future__ import annotations

import gzip
from importlib.resources import files

import httpx
import pytest

from noetl.api.routes.ui import PAGE_POLICY

pytestmark = pytest.mark.anyio

MIN_PACKED = 2048
"""Length from which a text is compressed to less than half."""

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.mark.parametrize("path", ["/ui", "/ui/", "/ui/runs", "/ui/runs/5a14a9fa/logs", "/ui/a%2Fb%20%C3%BC"])
async def test_every_address_is_the_same_document(http: httpx.AsyncClient, path: str) -> None:
    response = await http.get(path)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/html")
    assert response.headers["content-security-policy"] == PAGE_POLICY
    assert "unsafe" not in PAGE_POLICY
    assert response.text == (await http.get("/ui")).text
    assert 'src="/ui/files/app.js" data-root=""' in response.text


@pytest.mark.parametrize("name", sorted(path.name for path in (files("noetl.api.ui") / "bundle").iterdir()))
async def test_files_of_the_bundle_are_served(http: httpx.AsyncClient, name: str) -> None:
    content = (files("noetl.api.ui") / "bundle" / name).read_bytes()
    plain = await http.get(f"/ui/files/{name}", headers={"Accept-Encoding": "identity"})
    assert (plain.status_code, plain.content) == (200, content)
    async with http.stream("GET", f"/ui/files/{name}", headers={"Accept-Encoding": "gzip"}) as response:
        raw = b"".join([part async for part in response.aiter_raw()])
    assert (gzip.decompress(raw) if response.headers.get("content-encoding") == "gzip" else raw) == content
    if name.endswith((".js", ".css", ".txt")) and len(content) > MIN_PACKED:
        assert len(raw) < len(content) / 2


async def test_only_files_named_by_their_content_are_kept_without_a_question(http: httpx.AsyncClient) -> None:
    names = [path.name for path in (files("noetl.api.ui") / "bundle").iterdir()]
    lifetimes = {name: (await http.get(f"/ui/files/{name}")).headers["cache-control"] for name in names}
    kept = {name for name, lifetime in lifetimes.items() if "immutable" in lifetime}
    assert kept and kept == {name for name in names if "-" in name and name.endswith(".js")}
    assert {lifetimes[name] for name in names if name not in kept} == {"no-cache"}
    tag = (await http.get("/ui/files/app.js")).headers["etag"]
    assert (await http.get("/ui/files/app.js", headers={"If-None-Match": tag})).status_code == 304


@pytest.mark.parametrize("name", ["nosuch.js", "..%2F__init__.py", "%2e%2e/__init__.py", "app.js.map"])
async def test_other_files_are_not_served(http: httpx.AsyncClient, name: str) -> None:
    response = await http.get(f"/ui/files/{name}")
    assert "import" not in response.text
    assert response.status_code == 404 or response.text == (await http.get("/ui")).text


async def test_a_browser_is_sent_to_the_page_and_a_program_is_not(http: httpx.AsyncClient) -> None:
    response = await http.get("/", headers=BROWSER)
    assert (response.status_code, response.headers["location"]) == (307, "/ui")
    response = await http.get("/", headers={"Accept": "application/json"})
    assert (response.status_code, response.json()["detail"]) == (
        404,
        "Unknown path /; /docs lists all paths.",
    )


async def test_the_page_is_read_and_not_written(http: httpx.AsyncClient) -> None:
    assert (await http.post("/ui/runs")).status_code == 405
    assert (await http.head("/ui")).status_code == 200
