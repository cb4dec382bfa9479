"""Log lines on stderr."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from s3pool.cli.main import LOG_ROOT, set_up_logs


@pytest.fixture(autouse=True)
def logger() -> Iterator[logging.Logger]:
    """Give the program's logger, and leave it as it was."""
    logger = logging.getLogger(LOG_ROOT)
    handlers, level, propagate = logger.handlers[:], logger.level, logger.propagate
    yield logger
    logger.handlers[:], logger.propagate = handlers, propagate
    logger.setLevel(level)


def test_text_lines_show_level_and_escape(logger: logging.Logger) -> None:
    """One line each, whatever a server put into the message."""
    stream = io.StringIO()

    set_up_logs(stream, level="info", as_json=False)
    logger.getChild("pool").warning("a\nb %s", "x")
    logger.getChild("pool").debug("hidden")

    assert "s3pool: warning: a\\nb x\n" == stream.getvalue()


def test_json_lines_hold_the_traceback(logger: logging.Logger) -> None:
    """One object a line, for collectors."""
    stream = io.StringIO()

    set_up_logs(stream, level="debug", as_json=True)
    try:
        raise ZeroDivisionError("bug")
    except ZeroDivisionError as exc:
        logger.debug("why", exc_info=exc)

    record = json.loads(stream.getvalue())
    assert ("log", "debug", "s3pool", "why") == tuple(record[k] for k in ("type", "level", "logger", "message"))
    assert "ZeroDivisionError: bug" in record["traceback"]


def test_closed_stream_loses_the_line(logger: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    """A warning must not become an error."""
    stream = io.StringIO()
    stream.close()

    set_up_logs(stream, level="info", as_json=False)
    logger.warning("lost")

    # logging tells of its own failures on stderr instead of raising them.
    assert ("", "") == capsys.readouterr()


def test_without_stderr_nothing_is_written(logger: logging.Logger, capsys: pytest.CaptureFixture[str]) -> None:
    """Not even by logging's own last resort."""
    set_up_logs(None, level="info", as_json=False)

    logger.warning("lost")

    assert ("", "") == capsys.readouterr()
