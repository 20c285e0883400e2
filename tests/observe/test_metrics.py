"""A real Prometheus scrapes a real server under load; what it has is what the agents did."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest

from homenode_directory.telemetry.catalog import COUNTERS, GAUGES, HISTOGRAMS
from tests.conftest import RedisFactory
from tests.observe.conftest import WAIT_S, Agents, Serve, Served
from tests.support.ports import HOST, accepts_connections, free_port, wait_until

WORKERS = 3
# Their labels are not known before something happened.
OPEN = {"homenode_refusals", "homenode_resyncs", "homenode_mistakes"}


class Prometheus:
    """A Prometheus of the test's own, which scrapes one server every second."""

    def __init__(self, folder: Path, target: str) -> None:
        self.address = f"{HOST}:{free_port()}"
        scrape = {"job_name": "homenode", "static_configs": [{"targets": [target.removeprefix("http://")]}]}
        config = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": [scrape]}
        (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
        command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/tsdb"]
        command += [f"--web.listen-address={self.address}", "--enable-feature=exemplar-storage", "--log.level=warn"]
        with (folder / "prometheus.log").open("wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(lambda: accepts_connections(int(self.address.rpartition(":")[2])), what="Prometheus")

    def ask(self, path: str, **parameters: str) -> list[dict[str, object]]:
        """The data of an answer."""
        with urlopen(f"http://{self.address}/api/v1/{path}?{urlencode(parameters)}", timeout=WAIT_S) as answer:
            data = json.load(answer)["data"]
        return data["result"] if isinstance(data, dict) else data  # type: ignore[no-any-return]

    def value(self, expression: str) -> float | None:
        """Its one value now."""
        found = self.ask("query", query=expression)
        return float(found[0]["value"][1]) if len(found) == 1 else None  # type: ignore[index]


@pytest.fixture
def watched(serve: Serve, short_tmp: Path) -> Iterator[tuple[Served, Prometheus]]:
    """A server, and the Prometheus that watches it."""
    served = serve()
    prometheus = Prometheus(short_tmp, served.metrics)
    yield served, prometheus
    prometheus.process.terminate()
    prometheus.process.wait(WAIT_S)


def test_prometheus_has_what_the_agents_did(watched: tuple[Served, Prometheus], agent: Agents) -> None:
    served, prometheus = watched
    workers = [agent("worker", served.url, str(n)) for n in range(WORKERS)]
    for worker in workers:
        worker.say()
    done: Counter[str] = Counter()
    for worker in workers:
        done.update(json.loads(worker.hears()))
    assert done["hits"] >= 0.9 * WORKERS * 10 * 100 and done["tokens_delta"] > 0

    exact = {
        "homenode_commits_total": done["commits"],
        'homenode_cache_reads_total{result="hit"}': done["hits"],
        'homenode_cache_reads_total{result="miss"}': done["misses"] - done["stale"],
        'homenode_cache_reads_total{result="stale"}': done["stale"],
        'sum(homenode_tokens_saved_total{how="hit"})': done["tokens_hit"],
        'sum(homenode_tokens_saved_total{how="delta"})': done["tokens_delta"],
        'sum(homenode_tokens_saved_total{how="unchanged"})': done["tokens_unchanged"],
        'sum(homenode_bytes_saved_total{how="hit"})': done["hit_bytes"],
        'homenode_conflicts_total{reason="version_conflict"}': done["conflicts"],
        'homenode_lease_ends_total{cause="released"}': done["leases"],
        "homenode_lease_wait_seconds_count": done["leases"],
        "homenode_fanout_count": done["commits"],
        "homenode_sessions": 0,
        "homenode_streams": 0,
    }
    seen: dict[str, float | None] = {}

    def agrees() -> bool:
        seen.update({series: prometheus.value(series) for series in exact})
        return seen == exact

    try:
        wait_until(agrees, timeout_s=WAIT_S)
    except TimeoutError:
        assert seen == exact
    # A sharer that has not acknowledged one version when the next comes is told of both.
    assert done["told"] <= (prometheus.value("homenode_fanout_sum") or 0) <= done["commits"]
    # Several in a row of one artifact are told of as one.
    assert WORKERS <= (prometheus.value("homenode_invalidation_seconds_count") or 0) <= done["told"]
    assert (prometheus.value("homenode_read_age_seconds_count") or 0) >= WORKERS
    assert (prometheus.value('homenode_read_age_seconds_bucket{le="5.0"}') or 0) > 0
    assert (prometheus.value('homenode_bytes_saved_total{how="delta"}') or 0) > 0
    assert prometheus.value('homenode_build_info{version!=""}') == 1
    assert (prometheus.value("homenode_store_memory_bytes") or 0) > 0
    assert prometheus.value("homenode_store_persistence_ok") == 1
    assert (prometheus.value("homenode_event_loop_lag_seconds_count") or 0) > 0
    assert (prometheus.value("process_cpu_seconds_total") or 0) > 0
    names = set(map(str, prometheus.ask("label/__name__/values")))
    assert {f"{name}_total" for name in COUNTERS.keys() - OPEN} | GAUGES.keys() <= names
    assert {f"{name}_count" for name in HISTOGRAMS} <= names
    told = {str(one["metric"]): one["help"] for one in prometheus.ask("targets/metadata")}
    assert all(text for name, text in told.items()) and len(told) > 40


def test_thousands_of_keys_and_agents_make_no_further_series(serve: Serve, agent: Agents) -> None:
    served = serve()

    def series() -> set[str]:
        return {line.rpartition(" ")[0] for line in served.scrape().splitlines() if not line.startswith("#")}

    def work(keys: int, agents: int) -> None:
        crowd = agent("crowd", served.url, str(keys), str(agents))
        crowd.say()
        assert crowd.hears() == "done"
        crowd.end()

    work(100, 20)
    before = series()
    work(3_000, 1_000)
    assert series() == before
    assert "secret" not in served.scrape() and "secret" not in served.scrape("application/openmetrics-text")


@pytest.mark.redis
def test_what_goes_wrong_is_counted(serve: Serve, agent: Agents, redis_factory: RedisFactory) -> None:
    redis = redis_factory(settings={"maxmemory": "64mb"})
    served = serve(store=redis.url)
    wait_until(lambda: served.value("homenode_store_memory_limit_bytes") == 64 << 20, what="the store's limit")
    assert served.value("homenode_store_persistence_ok") == 1

    holder = agent("holder", served.url)
    assert served.value("homenode_leases") == 1
    holder.process.kill()
    expired = 'homenode_lease_ends_total{cause="expired"}'
    wait_until(lambda: served.value(expired) == 1, timeout_s=WAIT_S, what="the end of the lease")

    writer = agent("writer", served.url)
    failures = [f'homenode_store_failures_total{{kind="{kind}"}}' for kind in ("commit", "heads", "condition")]
    assert [served.value(one) for one in ("homenode_incarnations_total", *failures)] == [0] * 4
    redis.flushall()
    wait_until(lambda: served.value("homenode_incarnations_total") >= 1, timeout_s=WAIT_S, what="another memory")
    redis.kill()
    writer.say()
    wait_until(lambda: sum(map(served.value, failures)) >= 1, timeout_s=WAIT_S, what="failed calls")


def test_metrics_have_the_form_that_is_asked_for(serve: Serve) -> None:
    served = serve()
    openmetrics = served.scrape("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5")
    assert openmetrics.endswith("# EOF\n") and "# TYPE homenode_commits counter" in openmetrics
    plain = served.scrape("text/plain")
    assert "# EOF" not in plain and "# TYPE homenode_commits_total counter" in plain
    for hostile in ("application/openmetrics-text;version=x\x7f", "," * 4_000, "application/openmetrics-text;" * 200):
        assert "homenode_commits" in served.scrape(hostile)
