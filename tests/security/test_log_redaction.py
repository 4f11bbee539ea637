"""Logs of services have no secret, whatever the formatter of a handler."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
from uvicorn.logging import AccessFormatter

from noetl.executor.runtime.json_logs import log_as_json_lines
from noetl.executor.security.redaction import MASK
from noetl.executor.security.secret_sources import register_local_secrets

SECRET = "swordfish-of-the-log"


class RevealingObject:
    """An object whose text has the secret."""

    def __str__(self) -> str:
        return f"<connection password={SECRET}>"


class TextlessObject:
    """An object that has no text."""

    def __str__(self) -> str:
        raise RuntimeError(SECRET)


@pytest.fixture(autouse=True)
def _service() -> Iterator[None]:
    """The log of a process that has started as a service does."""
    factory, root = logging.getLogRecordFactory(), logging.getLogger()
    handlers, level = root.handlers[:], root.level
    register_local_secrets({"NOETL_SECRET_WORD": SECRET})
    yield
    logging.setLogRecordFactory(factory)
    root.handlers[:] = handlers
    root.setLevel(level)


def _plain(stream: io.StringIO) -> None:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger().handlers[:] = [handler]


def _json_lines(stream: io.StringIO) -> None:
    logging.getLogger().handlers[:] = [logging.StreamHandler(stream)]
    log_as_json_lines()


@pytest.fixture(params=[_plain, _json_lines])
def log(request: pytest.FixtureRequest) -> io.StringIO:
    stream = io.StringIO()
    request.param(stream)
    return stream


def test_no_record_has_a_secret(log: io.StringIO, capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("a.library")
    logger.warning("text %s" % SECRET)  # noqa: UP031, G002
    logger.warning("argument %s", f"https://user:{SECRET}@host/")
    logger.warning("name %(name)s", {"name": SECRET})
    logger.warning("object %s", RevealingObject())
    logger.warning("parts %s%s", SECRET[:9], SECRET[9:])
    logger.warning("too few %s %s", SECRET)  # noqa: PLE1206
    logger.warning("broken %s", TextlessObject())
    try:
        raise ValueError(f"bad key {SECRET}")
    except ValueError:
        logger.exception("failed")
    logger.warning("stack of %s", SECRET, stack_info=True)
    written = log.getvalue()
    assert SECRET not in written + "".join(capsys.readouterr())
    assert written.count(MASK) >= 7
    assert "ValueError: bad key ***" in written
    assert "Traceback" in written


def test_records_without_a_secret_are_not_changed() -> None:
    error = ValueError("plain")
    logger = logging.getLogger("a.library")
    record = logger.makeRecord("n", 30, "f", 1, "%s and %d", ("a", 1), (ValueError, error, None))
    assert (record.msg, record.args, record.exc_info) == ("%s and %d", ("a", 1), (ValueError, error, None))
    assert record.exc_text is None


def test_formatters_that_need_the_arguments_have_them() -> None:
    arguments = ("127.0.0.1:1", "GET", f"/?key={SECRET}", "1.1", 200)
    record = logging.getLogger("uvicorn.access").makeRecord(
        "n", 20, "f", 1, '%s - "%s %s HTTP/%s" %d', arguments, None
    )
    formatter = AccessFormatter("%(client_addr)s %(request_line)s %(status_code)s", use_colors=False)
    assert formatter.format(record) == "127.0.0.1:1 GET /?key=*** HTTP/1.1 200 OK"


def test_json_lines_name_the_error(log: io.StringIO) -> None:
    _json_lines(log)
    log.truncate(0)
    try:
        raise ValueError(SECRET)
    except ValueError:
        logging.getLogger("x").exception("failed")
    line = json.loads(log.getvalue().strip("\0\n"))
    assert line["message"] == "failed"
    assert line["error"].endswith("ValueError: ***")
