"""Routes of the cached results of work: a list, and their deletion."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from noetl.api.http.openapi import response_body
from noetl.api.http.parameters import CacheConditions, CacheListQuery
from noetl.api.http.responses import JsonResponse
from noetl.api.routes.dependencies import ReadServices, RunServices
from noetl.api.service.cached_results import CachePage, ClearReport

router = APIRouter(tags=["cache"], default_response_class=JsonResponse)


@router.get("/cache", responses={200: response_body(CachePage, description="The newest results.")})
def list_cached_results(services: ReadServices, query: Annotated[CacheListQuery, Query()]) -> Response:
    """Return the cached results of work that a filter selects. The newest come first."""
    return JsonResponse(services.cache.find(query.to_query(), query.limit))


@router.delete("/cache", responses={200: response_body(ClearReport, description="They were deleted.")})
def clear_cached_results(services: RunServices, query: Annotated[CacheConditions, Query()]) -> Response:
    """Delete the cached results that a filter selects, or all. Later runs compute them again."""
    return JsonResponse(services.cache.clear(query.to_query()))
