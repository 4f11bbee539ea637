"""Access control of the HTTP app: it decides which requests reach a route.

Problem: a route without protection is open to everyone. So each route must declare who may call it, and one
place must decide, also about paths of no route.

Algorithm: each route declares its access as a dependency: a scope, or that it is public. A middleware finds
the route of a request as the router does. It authenticates the caller unless the route is public, and
compares the scope (role-based access control, Ferraiolo and Kuhn 1992). The dependency then returns the
services for the tenant of the caller.

Cost: one comparison of the path with each route. A process checks credentials on a thread, an API key with a
query of the store, and does so once in RECENT_SECONDS. While no authentication is configured, one query in
RECHECK_SECONDS.

Limits: a request with a path or method of no route needs any caller, and is answered with 404 or 405. OPTIONS
needs none.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack, nullcontext
from functools import partial
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Security
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.concurrency import run_in_threadpool
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from noetl.api.auth.authentication import LOCAL_CALLER, Caller
from noetl.api.auth.loopback import loopback_problem
from noetl.api.auth.rate_limits import CountedAttempt, RequestLimits, network_of
from noetl.api.context import AppContext
from noetl.api.http.access_log import PROBES, note_caller
from noetl.api.http.body_memory import BodyMemory
from noetl.api.http.client_check import TICKET_STREAM_SECONDS, leave_check
from noetl.api.http.event_stream import EventStreamResponse
from noetl.api.http.negotiation import accepted_media_type
from noetl.api.http.open_limit import STRANGERS
from noetl.api.http.open_requests import count_request
from noetl.api.http.openapi import JSON_TYPE
from noetl.api.http.parameters import check_parameters
from noetl.api.http.problems import (
    TICKET_IN_QUERY,
    Problem,
    insufficient_scope,
    problem_from,
    unauthenticated,
)
from noetl.api.http.request_shares import RequestPlace, RequestShares
from noetl.api.http.route_match import ROUTE_MATCH, RouteMatch, RouteTable
from noetl.api.service.services import TenantServices
from noetl.executor.errors import StoreError
from noetl.executor.precedence import ForegroundWork, without_precedence
from noetl.executor.security.redaction import redacting_for
from noetl.planner.frozen import frozen

_CALLER = "noetl.caller"

REFUSAL_SECONDS = 0.5
"""How long a caller beyond its limit of requests waits for its refusal."""

MAX_DELAYED = 200

_BEARER = HTTPBearer(auto_error=False, scheme_name="bearer", description="An API key, or a JSON Web Token.")


class PublicAccess:
    """Declaration of a route that needs no credentials and no store."""

    async def __call__(self) -> None:
        """Return nothing: the middleware reads the declaration itself."""


class PublicServices(PublicAccess):
    """Declaration of a route that needs no credentials.

    Its response must not contain data of a tenant, unless the path has a credential.
    """

    async def __call__(self, request: Request) -> TenantServices:  # type: ignore[override]
        """Return the services of the default tenant."""
        return _services_of(request)


class ScopeAccess:
    """Declaration of a route that needs a caller with a scope; with None, any caller."""

    def __init__(self, scope: str | None) -> None:
        self.scope = scope

    async def __call__(
        self,
        request: Request,
        _: Annotated[object, Security(_BEARER)] = None,
        __: Annotated[None, Depends(check_parameters)] = None,
    ) -> TenantServices:
        """Return the services for the tenant of the caller, whom the middleware has accepted."""
        caller: Caller = request.scope[_CALLER]
        return _services_of(request).for_tenant(caller.tenant)


def require_scope(request: Request, scope: str) -> None:
    """Check that the caller of a request has a scope which only some requests of its route need.

    Raises:
        Problem: 403.
    """
    caller: Caller = request.scope[_CALLER]
    if not caller.may(scope):
        raise insufficient_scope(scope)


def caller_name(request: Request) -> str:
    """Return the name of the caller of a request to a route that needs a scope, as logs have it."""
    caller: Caller = request.scope[_CALLER]
    return caller.name


def tenant_of_answer(scope: Scope) -> str:
    """Return the name under which the answer to a request counts: the tenant of its caller, if it has one."""
    caller: Caller | None = scope.get(_CALLER)
    return STRANGERS if caller is None else caller.tenant


class StreamAccess(ScopeAccess):
    """Declaration of the route of event streams, which also serves a caller that has a ticket for the run."""

    async def __call__(
        self,
        request: Request,
        _: Annotated[object, Security(_BEARER)] = None,
        __: Annotated[None, Depends(check_parameters)] = None,
    ) -> TenantServices:
        """Return the services for the tenant of the caller, whom the middleware has accepted."""
        caller: Caller = request.scope[_CALLER]
        media_types = (JSON_TYPE, EventStreamResponse.media_type)
        if caller.run_id is not None and accepted_media_type(request, media_types) == JSON_TYPE:
            detail = f"A ticket opens the event stream only: send `Accept: {EventStreamResponse.media_type}`."
            raise unauthenticated(detail)
        return await super().__call__(request)


def _ticket_of(scope: Scope) -> str | None:
    """Return the ticket in the query of a request. In another spelling it would not be redacted in logs."""
    match = TICKET_IN_QUERY.search("?" + scope["query_string"].decode("latin-1"))
    return match["ticket"] if match else None


def _services_of(request: Request) -> TenantServices:
    context: AppContext = request.app.state.context
    return context.services().services


RouteAccess = PublicAccess | ScopeAccess

_ANY_CALLER = ScopeAccess(None)
_NO_CREDENTIALS = PublicAccess()


class AccessTable:
    """The declared access of each route of some routers.

    Raises:
        TypeError: a route declares no access, or more than one.
    """

    def __init__(self, routers: Iterable[APIRouter]) -> None:
        routes = [route for router in routers for route in router.routes]
        self._access = {id(route): declared_access(route) for route in routes}
        self.routes = RouteTable(routes)

    def access_of(self, match: RouteMatch, method: str) -> RouteAccess:
        """Return the access that a request needs, by the routes of its path.

        A request with a path of no route needs any caller. So does one with a method that its path does not
        have, unless a route of the path is public. OPTIONS needs no credentials: it lists methods only, and
        browsers send none.
        """
        if match.route is not None:
            return self._access[id(match.route)]
        if match.same_path and method == "OPTIONS":
            return _NO_CREDENTIALS
        near = (self._access[id(route)] for route in match.same_path)
        return next((access for access in near if isinstance(access, PublicAccess)), _ANY_CALLER)


def declared_access(route: BaseRoute) -> RouteAccess:
    """Return the access that a route declares.

    Raises:
        TypeError: the route declares no access, or more than one.
    """
    dependencies = route.dependant.dependencies if isinstance(route, APIRoute) else []
    declarations = [
        dependency.call for dependency in dependencies if isinstance(dependency.call, RouteAccess)
    ]
    if len(declarations) != 1:
        raise TypeError(f"route {getattr(route, 'path', route)} does not declare its scope")
    return declarations[0]


def identify_caller(request: Request, scope: str) -> Caller:
    """Return the caller of a request to a public route, who must have a scope. It blocks.

    Raises:
        Problem: 401, 403, 429 or 503.
    """
    context: AppContext = request.app.state.context
    authenticator = context.services().authenticator
    if not authenticator.is_required():
        return LOCAL_CALLER  # The middleware has accepted the address.
    authorization = request.headers.getlist("authorization")
    credentials, address = next(iter(authorization), None), peer_address(request.scope)
    caller = _counted(context, credentials, lambda: authenticator.authenticate(authorization), address)
    if not caller.may(scope):
        raise insufficient_scope(scope)
    return caller


def peer_address(scope: Scope) -> str:
    """Return the address of the peer that has sent a request."""
    client = scope.get("client")
    return str(client[0]) if client else ""


@frozen
class _Credentials:
    """The credentials of a request: its headers `Authorization`, or the ticket for the events of a run."""

    authorization: list[str]
    ticket: str | None
    run_id: str

    @classmethod
    def of_request(cls, scope: Scope, access: RouteAccess) -> _Credentials:
        authorization = [
            value.decode("latin-1") for name, value in scope["headers"] if name == b"authorization"
        ]
        ticket = _ticket_of(scope) if isinstance(access, StreamAccess) and not authorization else None
        match: RouteMatch = scope[ROUTE_MATCH]
        return cls(authorization, ticket, match.path_params.get("workflow_id", ""))

    @property
    def text(self) -> str | None:
        """Return what identifies the credentials, or None if there are none.

        A ticket for another run is a wrong credential.
        """
        if self.ticket is not None:
            return f"ticket {self.ticket} for {self.run_id}"
        return next(iter(self.authorization), None)


class AccessControl:
    """Middleware that refuses a request unless its caller has the access that its route declares.

    While no authentication is configured, requests from this machine need no credentials, and all others are
    refused.
    """

    def __init__(self, app: ASGIApp, context: AppContext, table: AccessTable) -> None:
        self._app = app
        self.body_memory = BodyMemory()
        self._shares = RequestShares(lambda: context.settings)
        self._context = context
        self._table = table
        self._delayed = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        scope[ROUTE_MATCH] = match = self._table.routes.find(scope)
        access = self._table.access_of(match, scope.get("method", ""))
        credentials = _Credentials.of_request(scope, access)
        route = match.route.path if match.route else ""
        async with AsyncExitStack() as places:
            place: RequestPlace | None = None
            address = network_of(peer_address(scope))
            try:
                if (tenant := self._familiar_tenant(scope, access, credentials)) is not None:
                    count_request(scope, tenant, address)  # before it waits for a place
                    place = await places.enter_async_context(self._shares.place(scope, tenant, route))
                caller = scope[_CALLER] = await self._accepted_caller(scope, access, credentials)
                if route not in PROBES:
                    count_request(scope, None if caller is None else caller.tenant, address)
            except Exception as error:  # noqa: BLE001  An unexpected error is raised again.
                await places.aclose()
                await self._refuse(scope, receive, send, error)
                return
            if caller is not None:
                note_caller(caller.name, caller.tenant)
                leave_check(scope, partial(self._is_still_accepted, caller, credentials, time.monotonic()))
            tenant = None if caller is None else caller.tenant
            # Also without a tenant: the task of a pipelined request inherits the scope of the one before.
            places.enter_context(redacting_for(tenant))
            if scope["type"] != "http":
                await self._app(scope, receive, send)
                return
            if place is None:
                place = await places.enter_async_context(self._shares.place(scope, tenant, route))
            hold = places.enter_context(self.body_memory.hold(scope, tenant, address))
            receive = self._context.bodies.limit(receive, tenant, place, hold)
            await self._app(scope, receive, send)

    def _familiar_tenant(self, scope: Scope, access: RouteAccess, credentials: _Credentials) -> str | None:
        """Return the tenant of credentials that were accepted lately, so that it waits for its own place.

        Otherwise a tenant with many connections would authenticate many requests at the same time.
        """
        opened = self._context.opened_services
        if opened is None or credentials.text is None or scope["type"] != "http":
            return None
        if isinstance(access, PublicAccess):
            return None
        return opened.limits.familiar.tenant_of(credentials.text)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send, error: Exception) -> None:
        """Answer a request whose caller is not accepted.

        Raises:
            Exception: the error, if it is unexpected.
        """
        problem = problem_from(Request({**scope, "type": "http"}), error)
        if problem.status == HTTPStatus.TOO_MANY_REQUESTS:
            await self._delay_refusal()
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": problem.detail})
        else:
            await problem.response(scope["path"])(scope, receive, send)

    async def _delay_refusal(self) -> None:
        """Let a caller wait for its refusal, so that one that asks again at once asks less often.

        Callers beyond MAX_DELAYED are refused at once.
        """
        if self._delayed >= MAX_DELAYED:
            return
        self._delayed += 1
        try:
            await asyncio.sleep(REFUSAL_SECONDS)
        finally:
            self._delayed -= 1

    async def _accepted_caller(
        self, scope: Scope, access: RouteAccess, credentials: _Credentials
    ) -> Caller | None:
        """Return the caller; None at a public route.

        Raises:
            Problem: the request is refused.
        """
        problem = loopback_problem(scope)
        opened = self._context.opened_services
        is_required = opened is not None and opened.authenticator.is_known_as_required()
        if isinstance(access, PublicAccess) and (problem is None or is_required):
            return None
        if problem is None and opened is not None and opened.authenticator.is_known_as_optional():
            return LOCAL_CALLER  # without a thread, which would take a tenth of a short request
        text = credentials.text
        if not isinstance(access, PublicAccess) and (caller := self._recent_caller(credentials)) is not None:
            return _with_scope(caller, access)

        def authenticate() -> Caller | None:
            authenticator = self._context.services().authenticator
            if not authenticator.is_required():
                if problem is not None:
                    raise problem
                return LOCAL_CALLER
            if isinstance(access, PublicAccess):
                return None

            def identify() -> Caller:
                if credentials.ticket is not None:
                    return authenticator.authenticate_ticket(credentials.ticket, credentials.run_id)
                return authenticator.authenticate(credentials.authorization)

            return _with_scope(_counted(self._context, text, identify, address, attempt), access)

        attempt, address = None, peer_address(scope)
        if opened is not None and is_required and text is not None:
            # Before the check has a thread, so that those of many at once are few at a time.
            attempt = _begin_attempt(opened.limits, text, address)
        with attempt or nullcontext():
            if opened is None or attempt is None or attempt.refusal is None:
                with ForegroundWork():
                    return await run_in_threadpool(authenticate)
            async with opened.limits.spare_checks.place(address, attempt.refusal):
                return await run_in_threadpool(without_precedence()(authenticate))

    async def _is_still_accepted(self, caller: Caller, credentials: _Credentials, accepted_at: float) -> bool:
        """Return whether a caller that was accepted is so now. This counts neither requests nor failures."""
        if caller.run_id is not None:
            return time.monotonic() - accepted_at < TICKET_STREAM_SECONDS
        authenticator = self._context.services().authenticator
        if authenticator.recent_caller(credentials.authorization) or authenticator.is_known_as_optional():
            return True

        def authenticate() -> None:
            if authenticator.is_required():
                authenticator.authenticate(credentials.authorization)

        try:
            await run_in_threadpool(without_precedence()(authenticate))
        except Problem as problem:
            return problem.status != HTTPStatus.UNAUTHORIZED  # Else its issuer is away.
        except StoreError:
            return True  # It cannot be known, and there is nothing that could be sent.
        return True

    def _recent_caller(self, credentials: _Credentials) -> Caller | None:
        """Return the caller of credentials that were accepted just now, and count its request, or None.

        This takes no thread and no store, which take a third of a short request.
        """
        opened = self._context.opened_services
        if opened is None:
            return None
        caller = opened.authenticator.recent_caller(credentials.authorization)
        is_counted = caller is not None and opened.limits.callers.check_at_once(caller)
        return caller if is_counted else None


def _with_scope(caller: Caller, access: ScopeAccess) -> Caller:
    """Return the caller if it has the scope of a route.

    Raises:
        Problem: 403.
    """
    if access.scope is not None and not caller.may(access.scope):
        raise insufficient_scope(access.scope)
    return caller


def _begin_attempt(limits: RequestLimits, credentials: str, address: str) -> CountedAttempt | None:
    """Count an attempt of an address before it is known whether it fails. None if it is not counted.

    Raises:
        Problem: 429, nothing of the address is checked.
    """
    return limits.failures.begin(address) if limits.familiar.tenant_of(credentials) is None else None


def _counted(
    context: AppContext,
    credentials: str | None,
    identify: Callable[[], Caller],
    address: str,
    attempt: CountedAttempt | None = None,
) -> Caller:
    """Return the caller of a request whom `identify` returns, and count the request.

    `attempt` is one that was counted before, and during this call.

    An address without an attempt left may have a right caller nevertheless: others may share the address.
    With wrong credentials far beyond its limit, it is refused before they are checked.

    Raises:
        Problem: 401, 429 or 503.
    """
    limits = context.services().limits
    if attempt is None and credentials is not None:
        with _begin_attempt(limits, credentials, address) or nullcontext() as begun:
            return _identified(limits, credentials, identify, address, begun)
    return _identified(limits, credentials, identify, address, attempt)


def _identified(
    limits: RequestLimits,
    credentials: str | None,
    identify: Callable[[], Caller],
    address: str,
    attempt: CountedAttempt | None,
) -> Caller:
    """Return the caller whom `identify` returns, and note whether the attempt has failed.

    Raises:
        Problem: 401, 429 or 503.
    """
    try:
        caller = identify()
    except Problem as problem:
        is_failure = problem.status == HTTPStatus.UNAUTHORIZED
        if is_failure and attempt is not None:
            attempt.fail()
        elif is_failure and credentials is not None:
            limits.familiar.forget(credentials)  # They were revoked, or have expired.
            limits.failures.take(address)
        raise
    if credentials is not None and attempt is not None:
        limits.familiar.add(credentials, caller.tenant)
    limits.callers.check(caller)
    return caller
