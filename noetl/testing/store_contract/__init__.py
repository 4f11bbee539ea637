"""The contract of stores, as tests for pytest: one class for each part, and two that combine them.

    class TestMyStore(StoreContract):
        @pytest.fixture
        def store(self) -> MyStore:
            return MyStore()

The page docs/how-to/add-a-store.md says how to write a store.
"""

# ruff: noqa: E402
import pytest

for part in (
    "aliases", "cached_results", "consistency", "continued_runs", "damaged_runs", "debounce", "facts",
    "failed_items", "gates", "keys",
    "open_waits", "outbox", "plans", "queue",
    "rates", "registry", "run_deletion", "run_lists", "runs", "sequential", "skips", "sweep", "transitions",
    "trigger_lookups", "triggers", "waits",
):  # fmt: skip
    pytest.register_assert_rewrite(f"{__name__}.{part}")

from noetl.testing.store_contract.aliases import AliasesContract, LiveTriggersContract
from noetl.testing.store_contract.cached_results import CachedResultsContract
from noetl.testing.store_contract.consistency import ConsistencyContract
from noetl.testing.store_contract.continued_runs import ContinuedRunsContract
from noetl.testing.store_contract.damage import GateDamage, StoreDamage, SweepDamage
from noetl.testing.store_contract.damaged_runs import DamagedRunsContract
from noetl.testing.store_contract.debounce import DebounceContract
from noetl.testing.store_contract.facts import FactsContract
from noetl.testing.store_contract.failed_items import FailedItemsContract
from noetl.testing.store_contract.gates import GateConsistencyContract, GatesContract
from noetl.testing.store_contract.keys import KeysContract
from noetl.testing.store_contract.open_waits import OpenWaitsContract
from noetl.testing.store_contract.outbox import ChannelsContract, DueNotificationsContract, OutboxContract
from noetl.testing.store_contract.pauses import PausesContract
from noetl.testing.store_contract.plan_deletion import PlanDeletionContract
from noetl.testing.store_contract.plans import PlansContract
from noetl.testing.store_contract.queue import QueueContract
from noetl.testing.store_contract.rates import RatesContract
from noetl.testing.store_contract.registry import RegistryContract
from noetl.testing.store_contract.run_deletion import RunDeletionContract
from noetl.testing.store_contract.run_lists import RunListsContract
from noetl.testing.store_contract.runs import RunsContract
from noetl.testing.store_contract.sequential import SequentialContract
from noetl.testing.store_contract.skips import SkipsContract
from noetl.testing.store_contract.sweep import SweepContract
from noetl.testing.store_contract.switches import SwitchesContract
from noetl.testing.store_contract.transitions import RepairTransitionsContract, TransitionsContract
from noetl.testing.store_contract.trigger_lookups import TriggerLookupsContract
from noetl.testing.store_contract.triggers import TriggersContract
from noetl.testing.store_contract.waits import WaitsContract

__all__ = [
    "AliasesContract",
    "CachedResultsContract",
    "ChannelsContract",
    "ConsistencyContract",
    "ContinuedRunsContract",
    "DamagedRunsContract",
    "DebounceContract",
    "DueNotificationsContract",
    "FactsContract",
    "FailedItemsContract",
    "GateConsistencyContract",
    "GateDamage",
    "GatesContract",
    "KeysContract",
    "LiveTriggersContract",
    "MaintenanceContract",
    "OpenWaitsContract",
    "OutboxContract",
    "PausesContract",
    "PlanDeletionContract",
    "PlansContract",
    "QueueContract",
    "RatesContract",
    "RegistryContract",
    "RepairTransitionsContract",
    "RunDeletionContract",
    "RunListsContract",
    "RunsContract",
    "SequentialContract",
    "SkipsContract",
    "StoreContract",
    "StoreDamage",
    "SweepContract",
    "SweepDamage",
    "SwitchesContract",
    "TransitionsContract",
    "TriggerLookupsContract",
    "TriggersContract",
    "WaitsContract",
]


class StoreContract(
    PlansContract,
    KeysContract,
    RegistryContract,
    TriggersContract,
    TriggerLookupsContract,
    AliasesContract,
    LiveTriggersContract,
    GatesContract,
    RatesContract,
    OutboxContract,
    DueNotificationsContract,
    ChannelsContract,
    RunsContract,
    RunListsContract,
    RunDeletionContract,
    DebounceContract,
    QueueContract,
    OpenWaitsContract,
    WaitsContract,
    PausesContract,
    CachedResultsContract,
    SequentialContract,
    ContinuedRunsContract,
    SkipsContract,
    FailedItemsContract,
    TransitionsContract,
):
    """Tests of all parts but maintenance. A subclass has a fixture `store`, which returns an empty store."""


class MaintenanceContract(
    ConsistencyContract,
    GateConsistencyContract,
    DamagedRunsContract,
    SweepContract,
    PlanDeletionContract,
    RepairTransitionsContract,
):
    """Tests of maintenance. A subclass has a fixture `store`, and a `damage` that damages the store."""

    damage: GateDamage
