"""Routes of the page: its document, its files, and where a browser is sent."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Mapping
from importlib.resources import files

import brotli
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


BUNDLE = {path.name: path.read_bytes() for path in (files("noetl.api.ui") / "bundle").iterdir()}
NAMES = sorted(name for name in BUNDLE if not name.endswith(".br"))
DECODERS: Mapping[str | None, Callable[[bytes], bytes]] = {
    None: bytes,
    "gzip": gzip.decompress,
    "br": brotli.decompress,
}


async def read_encoded(http: httpx.AsyncClient, name: str, accepted: str) -> tuple[str | None, bytes, str]:
    """Return the encoding of a file of the page, what is sent, and its tag."""
    async with http.stream("GET", f"/ui/files/{name}", headers={"Accept-Encoding": accepted}) as response:
        raw = b"".join([part async for part in response.aiter_raw()])
    assert response.status_code == 200
    assert "Accept-Encoding" in response.headers["vary"]
    return response.headers.get("content-encoding"), raw, response.headers["etag"]


@pytest.mark.parametrize("name", NAMES)
async def test_files_of_the_bundle_are_served(http: httpx.AsyncClient, name: str) -> None:
    tags = set()
    for accepted in ("identity", "gzip", "gzip, br"):
        encoding, raw, tag = await read_encoded(http, name, accepted)
        assert DECODERS[encoding](raw) == BUNDLE[name]
        tags.add(tag)
        if name.endswith((".js", ".css", ".txt")):
            assert encoding == {"identity": None, "gzip, br": "br"}.get(accepted, "gzip")
            assert len(raw) <= MIN_PACKED or encoding is None or len(raw) < len(BUNDLE[name]) / 2
    assert len(tags) == (1 if name.endswith(".woff2") else 3)


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        ("gzip;q=0.9, br;q=0.8", "gzip"),
        ("br;q=0, *", "gzip"),
        ("*;q=0.5", "br"),
        ("br;q=0.3, identity;q=0.2", "br"),
        ("br;q=0, identity", None),
        ("br;q=x", None),
        ("zstd, BR", "br"),
    ],
)
async def test_the_weights_of_encodings_count(
    http: httpx.AsyncClient, accepted: str, encoding: str | None
) -> None:
    assert (await read_encoded(http, "app.js", accepted))[0] == encoding


async def test_packed_files_have_no_address(http: httpx.AsyncClient) -> None:
    assert (await http.get("/ui/files/app.js.br")).status_code == 404


async def test_only_files_named_by_their_content_are_kept_without_a_question(http: httpx.AsyncClient) -> None:
    lifetimes = {name: (await http.get(f"/ui/files/{name}")).headers["cache-control"] for name in NAMES}
    kept = {name for name, lifetime in lifetimes.items() if "immutable" in lifetime}
    assert kept and kept == {name for name in NAMES if "-" in name and name.endswith(".js")}
    assert {lifetimes[name] for name in NAMES if name not in kept} == {"no-cache"}
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
