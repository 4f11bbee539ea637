"""Route of the metrics that a monitoring system scrapes."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from noetl.api.access import require_scope
from noetl.api.http.negotiation import accepted_media_type
from noetl.api.http.openapi import text_body
from noetl.api.routes.dependencies import ReadServices, opened_services
from noetl.api.service.metrics import CONTENT_TYPES, OPENMETRICS_TYPE, PROMETHEUS_TYPE, Scrape

router = APIRouter(tags=["health"])


class Tenants(StrEnum):
    OWN = "own"
    ALL = "all"


TenantsParameter = Annotated[
    Tenants,
    Query(description="Whose runs are counted: `all` needs the scope `admin`, and names no playbook."),
]


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: text_body(
            PROMETHEUS_TYPE,
            OPENMETRICS_TYPE,
            description="The metrics in the requested format.",
            example="# TYPE noetl_open_runs gauge\nnoetl_open_runs 3.0\n",
        )
    },
)
def get_metrics(
    request: Request, services: ReadServices, tenants: TenantsParameter = Tenants.OWN
) -> Response:
    """Return the metrics of the runs of the caller's tenant, for Prometheus. `tenants=all` needs `admin`."""
    if tenants is Tenants.ALL:
        require_scope(request, "admin")
    media_type = accepted_media_type(request, tuple(CONTENT_TYPES))
    now = services.store.clock()
    is_own = tenants is Tenants.OWN
    metrics = services.store.facts.read(services.tenant if is_own else None, now)
    scrape = Scrape(metrics, now, has_playbooks=is_own)
    text = scrape.text(opened_services(request).latency, media_type)
    return Response(text, headers={"Content-Type": CONTENT_TYPES[media_type]})
