"""What the doctor finds."""

from __future__ import annotations

from dataclasses import dataclass

OK, NOTE, WARN, FAULT = "ok", "note", "warn", "FAULT"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. `advice` says what to do, "" where there is nothing to do; `host` which server, if one."""

    check: str
    level: str
    found: str
    advice: str = ""
    host: str = ""
