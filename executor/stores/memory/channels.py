"""Channels of notifications in the store in memory.

The author of a store decides how a write requires that a channel is as it was read. Here the lock orders all
writes.
"""

from __future__ import annotations

from noetl.executor.model.channels import Channel
from noetl.executor.stores.memory.state import MemoryState


class MemoryChannels:
    """The channels of a store in memory."""

    def __init__(self, state: MemoryState) -> None:
        self._state = state

    def get(self, tenant: str, name: str) -> Channel | None:
        with self._state.lock:
            return self._state.channels.get((tenant, name))

    def find(self, tenant: str) -> list[Channel]:
        with self._state.lock:
            return [channel for key, channel in sorted(self._state.channels.items()) if key[0] == tenant]

    def put(self, channel: Channel, read: Channel | None) -> bool:
        with self._state.lock:
            if not self._is_unchanged(channel, read):
                return False
            self._state.channels[channel.tenant, channel.name] = channel
            return True

    def remove(self, channel: Channel) -> bool:
        with self._state.lock:
            if not self._is_unchanged(channel, channel):
                return False
            del self._state.channels[channel.tenant, channel.name]
            return True

    def _is_unchanged(self, channel: Channel, read: Channel | None) -> bool:
        """Return whether the channel of a name is as it was read, or does not exist if it was not read."""
        current = self._state.channels.get((channel.tenant, channel.name))
        if current is None or read is None:
            return current is read
        return current.edition == read.edition
