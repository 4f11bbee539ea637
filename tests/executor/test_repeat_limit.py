from __future__ import annotations

import json
import logging
import resource
from collections.abc import Iterator

import pytest

from noetl.executor.engine.run_log import RUN_LOGGER
from noetl.executor.runtime import repeat_limit
from noetl.executor.runtime.file_limit import MAX_FILES, raise_file_limit
from noetl.executor.runtime.json_logs import log_as_json_lines
from noetl.executor.runtime.repeat_limit import MAX_RECORDS, WINDOW_SECONDS, RepeatLimit
from tests.log_handlers import restored_handlers


def fault(
    created: float, text: str = "no files", name: str = "asyncio", level: int = 40
) -> logging.LogRecord:
    record = logging.LogRecord(name, level, __file__, 1, f"{text}\nsocket %s", ("x",), None)
    record.created = created
    return record


class TestRepeatLimit:
    def test_a_few_of_the_same_fault_pass_in_a_minute(self) -> None:
        limit = RepeatLimit()
        passed = [limit.filter(fault(1000 + number / 100)) for number in range(2000)]
        assert passed == [True] * MAX_RECORDS + [False] * (2000 - MAX_RECORDS)

    def test_the_next_minute_says_how_many_were_left_out(self) -> None:
        limit = RepeatLimit()
        for _ in range(MAX_RECORDS + 7):
            limit.filter(fault(1000))
        later = fault(1000 + WINDOW_SECONDS)
        assert limit.filter(later)
        assert vars(later)["left_out"] == 7
        last = fault(1001 + 3 * WINDOW_SECONDS)
        assert limit.filter(last)
        assert vars(last)["left_out"] == 0

    def test_records_of_several_threads_come_in_any_order(self) -> None:
        limit = RepeatLimit()
        passed = [limit.filter(fault(1000 - number / 1000)) for number in range(2 * MAX_RECORDS)]
        assert passed == [True] * MAX_RECORDS + [False] * MAX_RECORDS

    def test_a_clock_that_goes_back_begins_a_minute(self) -> None:
        limit = RepeatLimit()
        assert [limit.filter(fault(1000)) for _ in range(MAX_RECORDS + 1)][-1] is False
        assert limit.filter(fault(10))

    def test_other_faults_and_lines_of_playbooks_pass(self) -> None:
        limit = RepeatLimit()
        for number in range(3 * MAX_RECORDS):
            assert limit.filter(fault(1000, f"run {number} failed"))
            assert limit.filter(fault(1000, name=repeat_limit.PLAYBOOK_LOGGER))
            assert limit.filter(fault(1000, name=RUN_LOGGER))
            assert limit.filter(fault(1000, level=logging.INFO))

    def test_the_memory_is_bounded(self) -> None:
        limit = RepeatLimit()
        for number in range(2 * repeat_limit.MAX_FAULTS):
            limit.filter(fault(1000, f"{number} {'x' * 100_000}"))
        assert len(limit._windows) == repeat_limit.MAX_FAULTS
        assert max(len(text) for _, _, text in limit._windows) == repeat_limit.MAX_KEY_LENGTH


@pytest.fixture
def root_handler(monkeypatch: pytest.MonkeyPatch) -> Iterator[logging.Handler]:
    """The only handler of the root logger."""
    root = logging.getLogger()
    handler = logging.StreamHandler()
    monkeypatch.setattr(root, "handlers", [handler])
    level = root.level
    yield handler
    root.setLevel(level)


def test_a_handler_of_services_has_the_limit_once(root_handler: logging.Handler) -> None:
    log_as_json_lines()
    log_as_json_lines()
    (limit,) = root_handler.filters
    assert isinstance(limit, RepeatLimit)
    record = fault(1000)
    record.left_out = 7
    assert json.loads(root_handler.format(record))["left_out"] == 7


class TestFileLimit:
    def test_the_limit_is_raised_as_far_as_the_system_allows(self) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (1000, hard))
        try:
            allowed = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
            assert raise_file_limit() == allowed
            assert resource.getrlimit(resource.RLIMIT_NOFILE) == (max(allowed, 1000), hard)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    def test_no_limit_stays(self, monkeypatch: pytest.MonkeyPatch) -> None:
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        monkeypatch.setattr(resource, "getrlimit", lambda _: unlimited)
        assert raise_file_limit() == MAX_FILES

    def test_a_low_limit_is_reported(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 64))
        assert raise_file_limit() == 64
        assert "may open 64 files only: raise its limit" in caplog.text


def test_a_test_leaves_no_limit_at_the_handlers_of_others(caplog: pytest.LogCaptureFixture) -> None:
    """A test that expects a warning would not find it after tests with the same warning."""
    with restored_handlers():
        log_as_json_lines()
        for _ in range(2 * MAX_RECORDS):
            logging.getLogger("noetl").warning("again")
    logging.getLogger("noetl").warning("again")
    assert caplog.messages == ["again"] * (MAX_RECORDS + 1)
