"""Routes of the health checks: whether the process lives, and whether it can work."""

from __future__ import annotations

from fastapi import APIRouter, Depends
from starlette.responses import Response

from noetl.api.http.responses import JsonResponse
from noetl.api.routes.dependencies import PublicService, public_route

router = APIRouter(tags=["health"], default_response_class=JsonResponse)


@router.get("/healthz", dependencies=[Depends(public_route)])
async def healthz() -> Response:
    """Report that the process answers. The store is not queried."""
    return JsonResponse({"status": "ok"})


@router.get("/readyz")
def readyz(service: PublicService) -> Response:
    """Report that the store answers; 503 if it does not."""
    service.runs(limit=1)
    return JsonResponse({"status": "ready"})
