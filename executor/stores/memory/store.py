"""The store in memory: its parts, composed."""

from __future__ import annotations

from noetl.executor.model.limits import PayloadLimits
from noetl.executor.stores.memory.cached_results import MemoryCache
from noetl.executor.stores.memory.channels import MemoryChannels
from noetl.executor.stores.memory.facts import MemoryFacts
from noetl.executor.stores.memory.gates import MemoryGates
from noetl.executor.stores.memory.keys import MemoryKeys
from noetl.executor.stores.memory.maintenance import MemoryMaintenance
from noetl.executor.stores.memory.outbox import MemoryOutbox
from noetl.executor.stores.memory.pauses import MemoryPauses
from noetl.executor.stores.memory.plans import MemoryPlans
from noetl.executor.stores.memory.queue import MemoryQueue
from noetl.executor.stores.memory.registry import MemoryRegistry
from noetl.executor.stores.memory.runs import MemoryRuns
from noetl.executor.stores.memory.state import MemoryState
from noetl.executor.stores.memory.switches import MemorySwitches
from noetl.executor.stores.memory.triggers import MemoryTriggers
from noetl.executor.stores.memory.visits import MemoryVisits
from noetl.executor.stores.memory.waits import MemoryWaits

DEFAULT_LIMITS = PayloadLimits()


class MemoryStore:
    """A store in the memory of this process, for tests and for readers of its code.

    The parts share one state. The author of a store gives them a connection to a database instead.
    """

    def __init__(
        self, *, limits: PayloadLimits = DEFAULT_LIMITS, retention_seconds: float | None = None
    ) -> None:
        self.state = state = MemoryState(limits, retention_seconds)
        self.clock = state.clock
        self.changes = state.changes
        self.work = state.work
        self.plans = MemoryPlans(state)
        self.runs = MemoryRuns(state)
        self.visits = MemoryVisits(state)
        self.pauses = MemoryPauses(state)
        self.switches = MemorySwitches(state, self.visits)
        self.queue = MemoryQueue(state)
        self.waits = MemoryWaits(state)
        self.registry = MemoryRegistry(state)
        self.triggers = MemoryTriggers(state)
        self.gates = MemoryGates(state)
        self.outbox = MemoryOutbox(state)
        self.channels = MemoryChannels(state)
        self.keys = MemoryKeys(state)
        self.cache = MemoryCache(state)
        self.facts = MemoryFacts(state)
        self.maintenance = MemoryMaintenance(state)

    def close(self) -> None:
        """Keep the state: it is lost with the process, and another thread may still use it."""
