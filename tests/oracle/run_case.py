"""A run to compare: a playbook as data, the playbooks that it starts, and its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

Data = Mapping[str, Any]

CASES = Path(__file__).parent / "cases"


@dataclass(frozen=True)
class RunCase:
    """A playbook, the playbooks that it starts, and the inputs of one run."""

    playbook: Data
    children: tuple[Data, ...] = ()
    inputs: Data = field(default_factory=dict)

    @property
    def is_sequential(self) -> bool:
        return self.playbook.get("mode") == "sequential"

    @property
    def may_depend_on_timing(self) -> bool:
        """True if `join: any` or `on_error: abort` may let the order of branches decide the outcome."""
        default = self.playbook.get("on_error", "abort")
        steps = self.playbook["steps"]
        has_abort = any(step.get("on_error", default) == "abort" for step in steps)
        has_any = any(step.get("join") == "any" for step in steps)
        return not self.is_sequential and (has_abort or has_any)

    @property
    def by_name(self) -> dict[str, Data]:
        """All playbooks by name."""
        return {playbook["name"]: playbook for playbook in (self.playbook, *self.children)}

    def to_yaml(self) -> str:
        data = {"inputs": self.inputs, "playbook": self.playbook, "children": list(self.children)}
        return yaml.safe_dump(data, sort_keys=False, width=110, default_flow_style=None)

    @classmethod
    def from_yaml(cls, text: str) -> RunCase:
        data = yaml.safe_load(text)
        return cls(data["playbook"], tuple(data.get("children", ())), data.get("inputs", {}))
