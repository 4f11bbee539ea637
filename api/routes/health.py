"""Routes of the health checks: whether the process lives, and whether it can work."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from noetl.api.http.openapi import response_body
from noetl.api.http.responses import HealthReport, JsonResponse
from noetl.api.routes.dependencies import PUBLIC, PublicTenantServices

router = APIRouter(tags=["health"], default_response_class=JsonResponse)


@router.get(
    "/healthz",
    dependencies=[PUBLIC],
    responses={200: response_body(HealthReport, description="The process answers.")},
)
async def check_health() -> Response:
    """Report that the process answers. The store is not queried."""
    return JsonResponse(HealthReport(status="ok"))


@router.get("/readyz", responses={200: response_body(HealthReport, description="The store answers.")})
def check_readiness(services: PublicTenantServices) -> Response:
    """Report that the store answers and can be written; 503 if not."""
    services.store.maintenance.probe()
    return JsonResponse(HealthReport(status="ready"))
