"""Log lines on stderr: text for people, JSON for collectors."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TextIO

from s3pool.cli.output import escape

OTHER_WORDS = {"trace": "debug", "warn": "warning"}
Pause = Callable[[], AbstractContextManager[None]]
ROOT = "s3pool"  # every logger of the program is below this one


class _TextFormatter(logging.Formatter):
    """``s3pool: warning: text``, control characters made visible."""

    def format(self, record: logging.LogRecord) -> str:
        text = f"s3pool: {record.levelname.lower()}: {escape(record.getMessage())}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class _JsonFormatter(logging.Formatter):
    """One object a line: type, time, level, logger, message and the traceback, if any."""

    def format(self, record: logging.LogRecord) -> str:
        import json

        from s3pool.model import format_iso_time

        fields = {
            "type": "log",
            "time": format_iso_time(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields)


class _StderrHandler(logging.Handler):
    """Writes lines and ignores errors of its stream: stderr may be closed."""

    def __init__(self, stream: TextIO, pause: Pause) -> None:
        super().__init__()
        self._stream, self._pause = stream, pause

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line; where stderr is closed, the exit code still tells of errors."""
        with contextlib.suppress(OSError, ValueError), self._pause():
            self._stream.write(f"{self.format(record)}\n")
            self._stream.flush()


def set_up(stream: TextIO | None, *, level: str, json: bool, pause: Pause = contextlib.nullcontext) -> None:
    """Send the program's log lines to a stream, each in a pause of the bars, and to no other."""
    logger = logging.getLogger(ROOT)
    logger.propagate = False
    logger.handlers.clear()
    handler: logging.Handler = _StderrHandler(stream, pause) if stream is not None else logging.NullHandler()
    handler.setFormatter(_JsonFormatter() if json else _TextFormatter())
    logger.addHandler(handler)
    set_level(level)


def set_level(level: str) -> None:
    """Choose the least severe level that is shown: debug (or trace), info, warning (or warn), error."""
    logging.getLogger(ROOT).setLevel(OTHER_WORDS.get(level.lower(), level).upper())
