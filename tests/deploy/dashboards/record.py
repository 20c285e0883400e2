"""Records what every panel shows of a real run, for the pictures: `python -m tests.deploy.dashboards.record FILE`.

The run: two directories over a real Redis, agents in processes of their own, one of them killed with its lease, one
directory killed and started again, and in the end Redis restarted. What is recorded is Prometheus's answers to the
panels' own queries.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.deploy.dashboards.monitored import Monitored
from tests.deploy.dashboards.places import boards, filled, panels

STEP_S = 1.0
LATELY = "5s"  # Grafana takes four scrape intervals or more
IDLE_S, QUIET_S, RECOVERY_S, END_S = 5.0, 30.0, 30.0, 25.0


def main() -> None:
    """Run, ask, write."""
    with tempfile.TemporaryDirectory(prefix="hn-dash-", ignore_cleanup_errors=True) as folder:
        world = Monitored(Path(folder))
        try:
            start, device = time.time(), _device()
            world.start()
            time.sleep(IDLE_S)
            world.load()
            time.sleep(QUIET_S)
            world.kill_directory()
            time.sleep(RECOVERY_S)
            world.redis.restart()
            time.sleep(END_S)
            recorded = {"device": device, **_recorded(world, start, time.time())}
        finally:
            world.close()
    Path(sys.argv[1]).write_text(json.dumps(recorded))


def _recorded(world: Monitored, start: float, end: float) -> dict[str, Any]:
    whole = f"{int(end - start)}s"

    def asked(expression: str) -> list[Any]:
        return world.between(filled(expression, lately=LATELY, whole=whole), start, end, STEP_S)

    return {
        "day": time.strftime("%-d %B %Y", time.gmtime(start)),
        "start": start,
        "end": end,
        "boards": {
            name: {
                "marks": [
                    {"name": note["name"], "color": note["iconColor"], "series": asked(note["expr"])}
                    for note in board["annotations"]["list"]
                ],
                "panels": {
                    str(panel["id"]): [asked(target["expr"]) for target in panel["targets"]] for panel in panels(board)
                },
            }
            for name, board in boards().items()
        },
    }


def _device() -> str:
    said = Path("/proc/cpuinfo").read_text()
    cpu = re.search(r"^model name\s*: (.*)$", said, re.MULTILINE)
    return (
        f"{os.cpu_count()} cores ({cpu[1] if cpu else platform.machine()}), "
        f"{platform.freedesktop_os_release()['PRETTY_NAME']}, Redis {_version('redis-server')}, "
        f"Prometheus {_version('prometheus')}, load {os.getloadavg()[0]:.0f} before it"
    )


def _version(command: str) -> str:
    said = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"\d+\.\d+\.\d+", said.stdout + said.stderr)
    return found[0] if found else "?"


if __name__ == "__main__":
    main()
