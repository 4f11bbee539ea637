"""Routes of channels: where notifications are sent. Only an administrator changes them."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from noetl.api.http.openapi import problems, required_body, response_body
from noetl.api.http.parameters import refuse_idempotency_key
from noetl.api.http.requests import read_channel_request
from noetl.api.http.responses import JsonResponse
from noetl.api.routes.dependencies import AdminServices, ReadServices, TenantThreads
from noetl.api.service.channel_views import ChannelEntry, ChannelPage, ChannelTest, StoredChannel

router = APIRouter(prefix="/channels", tags=["notifications"], default_response_class=JsonResponse)

_testers = TenantThreads(4)
"""Threads that send test messages, whose receivers may be slow."""

Channel = Annotated[str, Path(description="The name of a channel.", examples=["ops"])]


@router.get("", responses={200: response_body(ChannelPage, description="The channels.")})
def list_channels(services: ReadServices) -> Response:
    """Return all channels in the order of their names."""
    return JsonResponse(services.channels.find())


@router.get(
    "/{channel}",
    responses={200: response_body(ChannelEntry, description="The channel.")},
    openapi_extra=problems("not-found"),
)
def get_channel(channel: Channel, services: ReadServices) -> Response:
    """Return a channel, without its secret and without the path of its address."""
    return JsonResponse(services.channels.get(channel))


@router.put(
    "/{channel}",
    responses={
        200: response_body(StoredChannel, description="The channel was changed."),
        201: response_body(StoredChannel, description="The channel was added."),
    },
    openapi_extra={
        **required_body("ChannelBody"),
        **problems("invalid-channel", "too-many-channels", "channel-changed"),
    },
)
async def put_channel(channel: Channel, request: Request, services: AdminServices) -> Response:
    """Add or change a channel. The answer has the secret that signs if it was generated now."""
    declared = await read_channel_request(request)
    stored, is_new = await run_in_threadpool(services.channels.put, channel, declared)
    return JsonResponse(stored, 201 if is_new else 200)


@router.delete(
    "/{channel}",
    status_code=204,
    responses={204: {"description": "The channel was removed."}},
    openapi_extra=problems("not-found", "channel-changed"),
)
def remove_channel(channel: Channel, services: AdminServices) -> Response:
    """Remove a channel. Its notifications become undelivered when they are due."""
    services.channels.remove(channel)
    return Response(status_code=204)


@router.post(
    "/{channel}/pause",
    responses={200: response_body(ChannelEntry, description="The channel is paused.")},
    openapi_extra=problems("not-found", "channel-changed"),
)
def pause_channel(channel: Channel, services: AdminServices) -> Response:
    """Pause a channel: its notifications wait until it is resumed. A repeated request changes nothing."""
    return JsonResponse(services.channels.pause(channel))


@router.post(
    "/{channel}/resume",
    responses={200: response_body(ChannelEntry, description="The channel is not paused any more.")},
    openapi_extra=problems("not-found", "channel-changed"),
)
def resume_channel(channel: Channel, services: AdminServices) -> Response:
    """Resume a channel, and send what waits for it. A repeated request changes nothing."""
    return JsonResponse(services.channels.resume(channel))


@router.post(
    "/{channel}/test",
    dependencies=[Depends(refuse_idempotency_key)],
    responses={200: response_body(ChannelTest, description="The test was made.")},
    openapi_extra=problems("not-found"),
)
async def test_channel(channel: Channel, request: Request, services: AdminServices) -> Response:
    """Send a test message to a channel, also if it is paused, and say whether it was accepted."""
    test = partial(services.channels.test, channel)
    return JsonResponse(await _testers.run_remotely(request, services.tenant, test))
