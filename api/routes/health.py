"""Whether the process lives and whether it can work."""

from __future__ import annotations

from fastapi import APIRouter, Depends
from noetl.api.http.responses import JSON
from noetl.api.routes.dependencies import ForAll, anyone
from starlette.responses import Response

router = APIRouter(tags=["health"], default_response_class=JSON)


@router.get("/healthz", dependencies=[Depends(anyone)])
async def healthz() -> Response:
    """The process answers; the store is not asked."""
    return JSON({"status": "ok"})


@router.get("/readyz")
def readyz(service: ForAll) -> Response:
    """The store answers, too; 503 if it does not."""
    service.runs(limit=1)
    return JSON({"status": "ready"})
