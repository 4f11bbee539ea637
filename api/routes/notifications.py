"""Routes of notifications that were not delivered yet."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query
from starlette.responses import Response

from noetl.api.http.openapi import problems, response_body
from noetl.api.http.parameters import NotificationQuery, refuse_idempotency_key
from noetl.api.http.responses import JsonResponse
from noetl.api.routes.dependencies import ReadServices, RunServices
from noetl.api.service.channel_views import NotificationEntry, NotificationPage

router = APIRouter(prefix="/notifications", tags=["notifications"], default_response_class=JsonResponse)

Notification = Annotated[
    str, Path(description="The id of a notification.", examples=["5f1c7c0b1f2ad1f04b0d9f1e"])
]


@router.get(
    "",
    responses={200: response_body(NotificationPage, description="A page of notifications.")},
    openapi_extra=problems("invalid-cursor"),
)
def list_notifications(services: ReadServices, query: Annotated[NotificationQuery, Query()]) -> Response:
    """Return notifications that were not delivered yet, the newest first."""
    page = services.notifications.find(query.state, limit=query.limit, cursor=query.cursor)
    return JsonResponse(page)


@router.get(
    "/{notification}",
    responses={200: response_body(NotificationEntry, description="The notification.")},
    openapi_extra=problems("not-found"),
)
def get_notification(notification: Notification, services: ReadServices) -> Response:
    """Return a notification. One that was delivered does not exist any more."""
    return JsonResponse(services.notifications.get(notification))


@router.post(
    "/{notification}/retry",
    dependencies=[Depends(refuse_idempotency_key)],
    responses={200: response_body(NotificationEntry, description="The notification is due now.")},
    openapi_extra=problems("not-found", "notification-changed"),
)
def retry_notification(notification: Notification, services: RunServices) -> Response:
    """Send a notification now, with all its attempts again."""
    return JsonResponse(services.notifications.retry(notification))


@router.delete(
    "/{notification}",
    status_code=204,
    responses={204: {"description": "The notification was removed."}},
    openapi_extra=problems("not-found", "notification-changed"),
)
def discard_notification(notification: Notification, services: RunServices) -> Response:
    """Remove a notification, which is not sent any more."""
    services.notifications.discard(notification)
    return Response(status_code=204)
