"""What is asked of running containers: are they confined as the file says, and cut off from what is not for them?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tests.deploy.compose.machine import ROOT, Failed, Machine

PROJECT = "homenode"
DIRECTORIES = ("directory-1", "directory-2")
SERVICES = ("redis", *DIRECTORIES, "prometheus", "alertmanager")

_REACH = """
import socket, sys
redis = [(host, 6379) for host in ("redis", *sys.argv[1:])]
for name, port in [("directory-1", 7400), *redis, ("prometheus", 9090)]:
    try:
        socket.create_connection((name, port), 3).close()
        print(name, port, "open")
    except OSError as error:
        print(name, port, "closed")
"""


def container(service: str) -> str:
    """Its name."""
    return f"{PROJECT}_{service}_1"


def inspect(machine: Machine, service: str) -> dict[str, Any]:
    """What docker knows of a service's container."""
    found: dict[str, Any] = json.loads(machine.docker("inspect", container(service)))[0]
    return found


def confined(machine: Machine) -> Iterator[str]:
    """A line for each service. Raises Failed where one is less confined than it should be."""
    for service in SERVICES:
        about = inspect(machine, service)
        status = machine.docker("exec", container(service), "cat", "/proc/1/status")
        fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        uid = fields["Uid"].split()[0]
        limits = about["HostConfig"]
        wrote = machine.docker("exec", container(service), "sh", "-c", "echo >/probe && echo wrote", check=False)
        held = {
            "a user of its own": uid != "0",
            "no capabilities": int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == 0,
            "no new privileges": fields["NoNewPrivs"] == "1",
            "a read-only root": limits["ReadonlyRootfs"] and "wrote" not in wrote,
            "limits": limits["Memory"] > 0 and limits["NanoCpus"] > 0 and limits["PidsLimit"] > 0,
        }
        if missing := [name for name, holds in held.items() if not holds]:
            raise Failed(f"{service} lacks {', '.join(missing)}")
        yield f"{service}: user {uid}, {', '.join(list(held)[1:])} ({limits['Memory'] >> 20} MiB)"


def no_secret_shows(machine: Machine) -> str:
    """Raises Failed where a password is in what docker tells of a container, or in a log."""
    for name in ("redis_password", "grafana_password"):
        secret = (ROOT / "deploy/secrets" / name).read_text()
        for service in SERVICES:
            told = json.dumps(inspect(machine, service)) + machine.docker("logs", container(service))
            if secret in told:
                raise Failed(f"{name} shows in {service}")
    return "no password in any container's settings or log"


def store_out_of_reach(machine: Machine) -> str:
    """What an agent's container reaches. Raises Failed where that is Redis, by name or by address, or Prometheus."""
    networks = inspect(machine, "redis")["NetworkSettings"]["Networks"]
    addresses = [network["IPAddress"] for network in networks.values()]
    probe = ("run", "--rm", "--network", f"{PROJECT}_agents", "--entrypoint", "python3", "homenode-sdk:local")
    said = machine.docker(*probe, "-c", _REACH, *addresses)
    lines = said.splitlines()
    if lines[0] != "directory-1 7400 open" or any(line.endswith("open") for line in lines[1:]):
        raise Failed(f"an agent's container reaches what it should not, or not what it should:\n{said}")
    return f"an agent's container reaches {lines[0].removesuffix(' open')}, and not {', '.join(lines[1:])}"
