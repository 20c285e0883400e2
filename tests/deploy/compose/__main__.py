"""`make compose-test`: the deployment on a real Docker daemon, with containers killed and networks cut under load.

Prints what it does and what it sees, with seconds since the start; ends with 1 at the first thing that is not as it
should be. Nothing stays behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from tests.deploy.compose import checks, load
from tests.deploy.compose.checks import PROJECT, SERVICES, container, inspect
from tests.deploy.compose.machine import Failed, Machine, machine, make_images, run, wheels
from tests.deploy.compose.watching import Load, Window

URL = "homenode://127.0.0.1:7400,127.0.0.1:7402"
CUT_S = 5.0
AFTER_S = 8.0
HEALTHY_S = 90.0
DOWN_S = 75.0  # longer than the alert of a directory that is down waits
BEGAN = time.monotonic()


def say(text: str) -> None:
    """A line of the log."""
    print(f"{time.monotonic() - BEGAN:6.1f} s  {text}", flush=True)


def until(what: str, holds: Callable[[], object], within_s: float) -> float:
    """Wait for something; how long it took. Raises Failed."""
    began = time.monotonic()
    while not holds():
        if time.monotonic() - began > within_s:
            raise Failed(f"not within {within_s:g} s: {what}")
        time.sleep(0.25)
    return time.monotonic() - began


def healthy(made: Machine, *services: str) -> Callable[[], bool]:
    """Whether containers are, by their own checks."""
    return lambda: all(inspect(made, name)["State"].get("Health", {}).get("Status") == "healthy" for name in services)


def ask(made: Machine, path: str, port: int = 9090) -> Any:
    """Prometheus, or Alertmanager at 9093."""
    found = run(*made.inside("curl", "-sf", f"http://127.0.0.1:{port}{path}"), check=False)
    return json.loads(found) if found else {}


def query(made: Machine, expression: str) -> list[Any]:
    """The result of an expression."""
    found = ask(made, f"/api/v1/query?query={urllib.parse.quote(expression)}")
    return list(found.get("data", {}).get("result", []))


def cli(made: Machine, *arguments: str) -> str:
    """The command line from outside."""
    return run(*made.inside(sys.executable, "-m", "homenode.cli.main", "--url", f"{URL}/main", *arguments))


class Trouble:
    """What is done to a deployment under load, one thing after the other."""

    def __init__(self, made: Machine, agents: Load) -> None:
        self._made = made
        self._load = agents
        self.windows: list[tuple[str, Window]] = []

    def all(self) -> None:
        """Everything. Raises Failed."""
        kill, network = self._kill_process, self._cut
        self._meet("directory-1: its process is killed (-9), and started again", lambda: kill("directory-1"))
        self._meet("directory-2: docker kill, and docker start 5 s later", lambda: self._down("kill", "directory-2"))
        self._meet("directory-1: docker stop (it drains), and start", lambda: self._down("stop", "directory-1"))
        self._meet("directory-2: frozen for 5 s (docker pause)", lambda: self._pause("directory-2"))
        self._meet("directory-1: cut off from agents for 5 s", lambda: network("agents", "directory-1"))
        self._meet("directory-2: cut off from the store for 5 s", lambda: network("store", "directory-2"))
        self._meet("redis: docker restart", lambda: self._made.docker("restart", container("redis")))
        self._meet("redis: its process is killed (-9), and started again", lambda: kill("redis"))
        self._meet("redis: cut off from both directories for 5 s", lambda: network("store", "redis"))

    def _meet(self, name: str, act: Callable[[], object]) -> None:
        began = time.monotonic()
        say(name)
        act()
        time.sleep(AFTER_S)
        until("all containers are healthy again", healthy(self._made, *SERVICES), HEALTHY_S)
        self._load.check()
        seen = self._load.window(began, time.monotonic())
        self.windows.append((name, seen))
        say(f"    {seen.text}")
        for error in seen.failed[:3]:
            say(f"    failed: {error}")
        if not seen.acknowledged:
            raise Failed("nothing was acknowledged meanwhile")

    def _kill_process(self, service: str) -> None:
        """From outside, so that docker sees a container that has died and starts it again."""
        before = inspect(self._made, service)["RestartCount"]
        os.kill(inspect(self._made, service)["State"]["Pid"], signal.SIGKILL)
        until(f"{service} is started again", lambda: inspect(self._made, service)["RestartCount"] > before, 30)

    def _down(self, how: str, service: str) -> None:
        self._made.docker(how, container(service))
        time.sleep(CUT_S)
        self._made.docker("start", container(service))

    def _pause(self, service: str) -> None:
        self._made.docker("pause", container(service))
        time.sleep(CUT_S)
        self._made.docker("unpause", container(service))

    def _cut(self, network: str, service: str) -> None:
        name = f"{PROJECT}_{network}"
        self._made.docker("network", "disconnect", name, container(service))
        time.sleep(CUT_S)
        self._made.docker("network", "connect", "--alias", service, name, container(service))


def demo_outside(made: Machine) -> None:
    """The demo, from outside."""
    command = made.inside(sys.executable, "-m", "homenode.cli.main", "demo", "--url", f"{URL}/main",
                          "--dir", str(made.folder / "demo"))  # fmt: skip
    said = run(*command)
    say(f"    {said.strip().splitlines()[-1]}")


@contextlib.contextmanager
def demo_inside(made: Machine) -> Iterator[None]:
    """The profile `demo` beside the block. Raises Failed unless it ends well."""
    made.compose("--profile", "demo", "up", "-d", "--no-deps", "demo")
    yield
    say("the demo's containers play on to the end")
    name = container("demo")
    until("the demo has ended", lambda: not inspect(made, "demo")["State"]["Running"], 900)
    said, state = made.docker("logs", name), inspect(made, "demo")["State"]
    say(f"    {said.count('VERDICT: every promise was kept')} plays, all promises kept; exit {state['ExitCode']}")
    if state["ExitCode"] or state["OOMKilled"]:
        raise Failed(said[-4000:])


def doctor(made: Machine) -> None:
    """The doctor, where the store is in reach. Raises Failed where it finds a fault."""
    flags = ("--store", "redis://homenode@redis:6379/0", "--store-password-file", "/run/secrets/redis_password")
    url = "homenode://directory-1:7400,directory-2:7400/main"
    said = made.docker("exec", container("directory-1"), "homenode", "doctor", "--url", url, "--json", *flags)
    findings = json.loads(said.splitlines()[-1])["findings"]
    told = Counter(found["level"].lower() for found in findings)
    say(f"    {', '.join(f'{number} {level}' for level, number in told.items())}")
    for found in findings:
        if found["level"].lower() == "warn":
            say(f"    {found['check']}: {found['found']}")


def metrics_arrive(made: Machine) -> None:
    """Prometheus scrapes what is there, and has figures of it."""
    until("every target is up", lambda: len(query(made, "up == 1")) >= 4, 60)
    until("operations show", lambda: query(made, "sum(rate(homenode_commits_total[1m])) > 0"), 60)
    names = {found["metric"]["__name__"] for found in query(made, 'count by (__name__) ({__name__=~"homenode_.+"})')}
    rules = [rule for group in ask(made, "/api/v1/rules")["data"]["groups"] for rule in group["rules"]]
    broken = [rule["name"] for rule in rules if rule["health"] == "err"]
    targets = len(query(made, "up == 1"))
    say(f"    {targets} targets up, {len(names)} metrics, {len(rules)} rules, {len(broken)} of them broken")
    if broken:
        raise Failed(f"rules that Prometheus cannot evaluate: {broken}")


def alert_reaches_alertmanager(made: Machine, agents: Load) -> None:
    """A directory that stays away is told of, and that it is back."""

    def firing() -> list[str]:
        alerts = ask(made, "/api/v2/alerts?active=true", 9093) or []
        return sorted({alert["labels"]["alertname"] for alert in alerts})

    made.docker("kill", container("directory-2"))
    began = time.monotonic()
    took_s = until("Alertmanager has the alert", lambda: "HomenodeDirectoryDown" in firing(), DOWN_S + 60)
    say(f"    {', '.join(firing())} at Alertmanager after {took_s:.0f} s")
    made.docker("start", container("directory-2"))
    took_s = until("the alert is over", lambda: "HomenodeDirectoryDown" not in firing(), 360)
    say(f"    over {took_s:.0f} s after the start")
    say(f"    {agents.window(began, time.monotonic()).text}")


def counted(made: Machine, agents: Load) -> None:
    """Every acknowledged edit is in the counters, once. Raises Failed."""
    failed = [operation for operation in agents.operations if operation.error]
    unknown = sum(operation.error.startswith("Unknown") for operation in failed)
    acknowledged = len(agents.operations) - len(failed)
    total = sum(int(cli(made, "cat", load.counter(number))) for number in range(load.COUNTERS))
    say(f"    {acknowledged} edits acknowledged, {len(failed)} failed; the counters say {total}")
    for operation in failed:
        took_s = operation.ended - operation.began
        say(f"    failed at {operation.ended - BEGAN:.1f} s after {took_s:.1f} s: {operation.error}")
    if not acknowledged <= total <= acknowledged + unknown:
        raise Failed("edits were lost" if total < acknowledged else "edits took effect twice")
    if failed:
        raise Failed("edits failed")


def up(made: Machine) -> None:
    """Build and start."""
    say("images: a base from Debian, wheels for it, stand-ins for redis, prometheus and alertmanager")
    make_images(made)
    with wheels(made):
        made.compose("--profile", "demo", "build", *SERVICES, "demo")
    for line in made.docker("images", "--format", "{{.Repository}}:{{.Tag}} {{.Size}}").splitlines():
        if "<none>" not in line:
            say(f"    {line}")
    say("docker-compose up")
    made.compose("up", "-d", *SERVICES)
    until("all containers are healthy", healthy(made, *SERVICES), HEALTHY_S)


def play(made: Machine) -> None:
    """All of it."""
    say("the demo from outside")
    demo_outside(made)
    say("the doctor, in a directory's container")
    doctor(made)
    say("the profile demo beside agents from outside")
    agents = Load(made, f"{URL}/main")
    try:
        with demo_inside(made):
            agents.start()
            time.sleep(AFTER_S)
            say("metrics")
            metrics_arrive(made)
            trouble = Trouble(made, agents)
            trouble.all()
            say("directory-2 stays away: docker kill")
            alert_reaches_alertmanager(made, agents)
            agents.finish()
    finally:
        agents.kill()
    say("the count")
    counted(made, agents)
    say(checks.no_secret_shows(made))


def main() -> int:
    """Returns the exit status."""
    try:
        run("deploy/secrets.sh")
        with machine() as made:
            version = made.docker("version", "--format", "{{.Server.Version}}")
            say(f"dockerd {version}, docker-compose {run('docker-compose', 'version', '--short').strip()}")
            up(made)
            for line in checks.confined(made):
                say(line)
            say(checks.store_out_of_reach(made))
            play(made)
            made.compose("--profile", "demo", "down", "--volumes")
    except (Failed, subprocess.TimeoutExpired) as failure:
        say(f"FAILED: {failure}")
        return 1
    say("everything was as it should be")
    return 0


if __name__ == "__main__":
    sys.exit(main())
