"""Log lines: JSON for machines, plain for people; never content."""

from __future__ import annotations

import json
import logging
import sys
import time

EXTRA = (
    "incident", "method", "outcome", "took_ms", "address", "store", "slices", "slice", "incarnation", "port", "version",
    "worker", "status",
)  # fmt: skip


class JsonLines(logging.Formatter):
    """One JSON object a line; of a record's extras only the known ones."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, object] = {
            "time": f"{moment}.{int(record.msecs):03}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update((name, getattr(record, name)) for name in EXTRA if hasattr(record, name))
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class TextLines(logging.Formatter):
    """A line for people."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        extras = " ".join(f"{name}={getattr(record, name)}" for name in EXTRA if hasattr(record, name))
        text = f"{time.strftime('%H:%M:%S', time.localtime(record.created))} {record.levelname.lower()}: "
        text += f"{record.getMessage()} {extras}".rstrip()
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def set_up_logs(level: str, form: str, worker: int | None = None) -> None:
    """Write this process's log lines to standard error; `worker`, where given, is named in each."""
    handler = logging.StreamHandler(sys.stderr)
    if worker is not None:
        handler.addFilter(lambda record: bool(record.__dict__.setdefault("worker", worker)) or True)
    handler.setFormatter(JsonLines() if form == "json" else TextLines())
    # What goes wrong in handlers is logged by them; gRPC adds a traceback for each client that leaves at a bad moment.
    logging.getLogger("grpc._cython.cygrpc").setLevel(logging.CRITICAL)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
