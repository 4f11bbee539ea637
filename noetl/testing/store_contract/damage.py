"""The interface to damage a store, for the contracts of consistency checks and of sweeps."""

from __future__ import annotations

from typing import Any, Protocol

from noetl.executor.model.flows import Flow
from noetl.executor.model.gates import Slot
from noetl.executor.model.run import Run


class StoreDamage(Protocol):
    """Damage to a store that no operation makes. Values are named as in the records; None removes one."""

    @property
    def leftover_kinds(self) -> tuple[str, ...]:
        """Kinds of rows that may belong to an unknown run."""
        ...

    @property
    def unreadable_run(self) -> dict[str, Any]:
        """Values with which a run cannot be decoded. It is empty if the store decodes nothing."""
        ...

    def update_visit(self, store: Any, run: Run, step: str, **values: Any) -> None:
        """Update the visit of a step."""
        ...

    def update_run(self, store: Any, run_id: str, **values: Any) -> None:
        """Update a run."""
        ...

    def set_live(self, store: Any, run: Run, join: str, live: int) -> None:
        """Set the number of branches that can reach a join."""
        ...

    def add_arrival(self, store: Any, run: Run, join: str) -> None:
        """Add an arrival at a join."""
        ...

    def set_parent(self, store: Any, run_id: str, parent: str) -> None:
        """Make a run the child of another run."""
        ...

    def add_version(self, store: Any, name: str, version: str, plan_hash: str) -> None:
        """Register a playbook whose plan was not saved."""
        ...

    def add_leftover(self, store: Any, kind: str, run_id: str) -> None:
        """Add a row of an unknown run."""
        ...


class SweepDamage(StoreDamage, Protocol):
    """Damage that a sweep repairs, and the retention time of the store."""

    def delete_visit(self, store: Any, run: Run, step: str) -> None:
        """Delete the visit of a step."""
        ...

    def set_retention(self, store: Any, seconds: float) -> None:
        """Let the store delete runs that ended longer ago than this."""
        ...

    def restore_without_plans(self, store: Any) -> None:
        """Delete all plans, as if an operator had restored a copy of the store under this process."""
        ...

    def age_plans(self, store: Any, seconds: float) -> None:
        """Move the last use of each plan into the past, and let this process forget when plans were used."""
        ...


class GateDamage(SweepDamage, Protocol):
    """Damage to gates."""

    def put_slot(self, store: Any, slot: Slot) -> None:
        """Write a slot, which its gate does not count."""
        ...

    def put_flow(self, store: Any, flow: Flow) -> None:
        """Write a flow as it is given."""
        ...
