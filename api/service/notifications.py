"""The service of notifications: those that were not delivered yet, and what a person does with them."""

from __future__ import annotations

from noetl.api.service.channel_views import NotificationEntry, NotificationPage
from noetl.api.service.errors import NotFoundError
from noetl.api.service.tenant import TenantContext
from noetl.executor.errors import RejectedError
from noetl.executor.model.deliveries import DeliveryState, delivery_state, retry_delivery
from noetl.executor.model.outbox import OutboxEntry, OutboxKind
from noetl.planner.diagnostics.wording import abbreviate
from noetl.planner.frozen import frozen

NOTIFICATIONS_PER_PAGE = 100
MAX_NOTIFICATIONS = 1000

MAX_READS = 20
"""How many pages of a store are read for one page of a state."""

MAX_TRIES = 10


@frozen
class NotificationService:
    """The notifications of one tenant."""

    context: TenantContext

    def find(
        self,
        state: DeliveryState | None = None,
        *,
        limit: int = NOTIFICATIONS_PER_PAGE,
        cursor: str | None = None,
    ) -> NotificationPage:
        """Return a page of the notifications, the newest first, or of those in a state.

        A page of a state may have fewer items than `limit`, and others follow.

        Raises:
            RejectedError: `invalid_cursor`.
        """
        outbox, tenant = self.context.store.outbox, self.context.tenant
        items: list[NotificationEntry] = []
        scope = self.context.cursor_scope("notifications", state)
        cursor = scope.open(cursor)
        for _ in range(MAX_READS):
            found, cursor = outbox.find(
                tenant, OutboxKind.NOTIFICATION, limit=limit - len(items), cursor=cursor
            )
            items += [
                NotificationEntry.from_entry(entry)
                for entry in found
                if state is None or delivery_state(entry) is state
            ]
            if cursor is None or len(items) >= limit:
                break
        return NotificationPage(items=items, next_cursor=scope.close(cursor))

    def get(self, id: str) -> NotificationEntry:
        """Return a notification.

        Raises:
            NotFoundError: there is no such notification, or it was delivered.
        """
        return NotificationEntry.from_entry(self._get(id))

    def retry(self, id: str) -> NotificationEntry:
        """Send a notification now, with all its attempts again.

        Raises:
            NotFoundError: there is no such notification, or it was delivered.
            RejectedError: `notification_changed`.
        """
        for _ in range(MAX_TRIES):
            entry = self._get(id)
            written = retry_delivery(entry, self.context.clock())
            if self.context.store.outbox.change(entry, written):
                return NotificationEntry.from_entry(written)
        raise _changed(id)

    def discard(self, id: str) -> None:
        """Remove a notification, which is not sent any more.

        Raises:
            NotFoundError: there is no such notification, or it was delivered.
            RejectedError: `notification_changed`.
        """
        for _ in range(MAX_TRIES):
            if self.context.store.outbox.change(self._get(id), None):
                return
        raise _changed(id)

    def _get(self, id: str) -> OutboxEntry:
        entry = self.context.store.outbox.get(self.context.tenant, id)
        if entry is None or entry.kind is not OutboxKind.NOTIFICATION:
            raise NotFoundError(f"unknown notification `{abbreviate(id)}`; it may have been delivered")
        return entry


def _changed(id: str) -> RejectedError:
    return RejectedError("notification_changed", f"notification `{id}` was changed meanwhile: try again")
