"""The page about AWS describes every parameter, default and alarm of `template.yaml`."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from benchmarks.meter import PRICES
from noetl.infra.reference import ROOT

TRIGGER_CONDITIONS = ("HasEventQueue", "HasTriggerFunction")
"""The conditions of resources that exist only with sources of triggers."""

TEXT = (ROOT / "docs" / "how-to" / "aws.md").read_text("utf-8")


class TaglessLoader(yaml.SafeLoader):
    """A YAML loader that reads functions of CloudFormation, such as `!Ref a`, as None."""


TaglessLoader.add_multi_constructor("!", lambda *_: None)


def table_rows(heading: str) -> dict[str, str]:
    """Return the second cell of the rows of the table below a heading, by each name in the first cell."""
    section = TEXT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]+) \|([^|]*)\|", section, re.MULTILINE)
    return {name: second.strip() for first, second in rows for name in re.findall(r"`(\w+)`", first)}


@pytest.fixture(scope="module")
def template() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.load((ROOT / "template.yaml").read_text("utf-8"), TaglessLoader)
    return loaded


def test_every_parameter_is_described_with_its_default(template: dict[str, Any]) -> None:
    defaults = {name: parameter.get("Default") for name, parameter in template["Parameters"].items()}
    shown = {name: cell.strip("`") for name, cell in table_rows("Parameters").items()}
    words = {None: "", "": "none"}
    assert shown == {name: words.get(value, str(value)) for name, value in defaults.items()}


def test_every_alarm_is_described(template: dict[str, Any]) -> None:
    resources = template["Resources"].items()
    alarms = {
        name: resource.get("Condition")
        for name, resource in resources
        if resource["Type"] == "AWS::CloudWatch::Alarm"
    }
    assert set(table_rows("Alarms")) == set(alarms)
    # The table of a stack without runs has no sources of triggers.
    idle = [name for name, condition in alarms.items() if condition not in TRIGGER_CONDITIONS]
    assert len(idle) == PRICES["idle_month"]["alarms"]
