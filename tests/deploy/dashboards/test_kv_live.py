"""Every expression of the workers' dashboard, asked of a real Prometheus that scraped a real worker at work."""

from __future__ import annotations

import asyncio
import subprocess
import urllib.parse
from pathlib import Path

import pytest
import yaml

import homenode
from homenode_api.v1 import kv_tier_pb2 as pb
from tests.deploy.dashboards.monitored import Directory, Monitored
from tests.deploy.dashboards.places import PROMETHEUS, filled, kv_expressions
from tests.kv.worker.parts import Caller, WorkerProcess, artifact, save_model, text
from tests.support.ports import HOST, accepts_connections, free_port, wait_until_async

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("dashboards")]

MEMBERS = ["anna", "ben"]
#: Seen only where a plan reuses at a place that it knows, a matter of measured times: its series must be there.
RARE = "homenode_kv_predicted_error_bucket"


def on(target: str) -> dict[str, list[dict[str, list[str]]]]:
    return {"static_configs": [{"targets": [target]}]}


class Watching(Monitored):
    """A Prometheus with this project's jobs, on one worker and its directory."""

    def start_on(self, worker: str, directory: str) -> None:
        jobs = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["scrape_configs"]
        named = {job["job_name"]: {"job_name": job["job_name"]} for job in jobs}
        scraped = [named["homenode-kv"] | on(worker), named["homenode"] | on(directory)]
        settings = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": scraped}
        path, port = self.folder / "prometheus.yml", free_port()
        path.write_text(yaml.safe_dump(settings))
        command = ["prometheus", f"--config.file={path}", f"--storage.tsdb.path={self.folder / 'tsdb'}"]
        with (self.folder / "prometheus.log").open("wb") as log:
            command += [f"--web.listen-address={HOST}:{port}", "--log.level=warn"]
            self._others.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
        self._prometheus = f"http://{HOST}:{port}"

    @property
    def up(self) -> bool:
        return accepts_connections(int(self._prometheus.rpartition(":")[2]))


async def work(hn: homenode.Homenode, caller: Caller, turn: int) -> None:
    """Calls of all kinds: alone, in a round, with what was read before it changed."""
    notes = [await hn.put(f"{name}.md", f"{name} says {turn}. " * 16, base=homenode.ANY) for name in MEMBERS]
    await caller.stub.Prefill(pb.PrefillRequest(artifacts=[artifact(note).artifact for note in notes]))
    shared = [artifact(note) for note in notes]
    await caller.generate(text("Before it. "), *shared, text("Go on."), tokens_max=3)
    await caller.stub.BeginRound(pb.BeginRoundRequest(round_id=f"round{turn}", members=MEMBERS, deadline_ms=5_000))
    calls = [
        caller.generate(text(f"I am {name}. "), *shared, round_id=f"round{turn}", member=name, tokens_max=3)
        for name in MEMBERS
    ]
    await asyncio.gather(*calls)


async def test_every_expression_over_workers_returns_data(tmp_path: Path, short_tmp: Path) -> None:
    server = Directory(f"sqlite:///{short_tmp}/store.sqlite3", short_tmp / "directory.log")
    url = f"homenode://{HOST}:{server.port}/main"
    worker = WorkerProcess(save_model(tmp_path / "model"), url, short_tmp, "--error-max", "5")
    world = Watching(tmp_path)
    try:
        server.start()
        await asyncio.to_thread(server.wait)
        await worker.start()
        world.start_on(urllib.parse.urlsplit(worker.told["metrics"]).netloc, f"{HOST}:{server.metrics}")
        await wait_until_async(lambda: asyncio.sleep(0, world.up), what="Prometheus")
        caller = Caller(worker.address)
        missing = {one.text: one.place for one in kv_expressions()}
        async with homenode.connect(url, agent="test") as hn:
            for turn in range(40):
                await work(hn, caller, turn)
                await asyncio.sleep(0.5)
                for expression in list(missing):
                    if world.query(filled(RARE if RARE in expression else expression)):
                        del missing[expression]
                if not missing:
                    break
        assert not missing
        await caller.close()
    finally:
        worker.kill()
        server.end()
        world.close()
