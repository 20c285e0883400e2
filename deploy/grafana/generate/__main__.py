"""Writes the dashboards: `python -m deploy.grafana.generate [FOLDER]`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from deploy.grafana.generate.coherence import COHERENCE
from deploy.grafana.generate.kv import KV
from deploy.grafana.generate.overview import OVERVIEW
from deploy.grafana.generate.store import STORE
from deploy.grafana.generate.streams import STREAMS

FOLDER = Path(__file__).resolve().parents[1] / "dashboards"


def files() -> dict[str, str]:
    """Each file's name and text."""
    made = (OVERVIEW, COHERENCE, STREAMS, STORE, KV)
    return {f"{board['uid'].removeprefix('homenode-')}.json": json.dumps(board, indent=1) + "\n" for board in made}


def main() -> None:
    """Write them."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
