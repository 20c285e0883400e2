"""Reading a server's /metrics: the few figures that the command line shows."""

from __future__ import annotations

import http.client
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from homenode.cli.exits import CliError, Exit
from homenode.transport import parse

METRICS_PORT = 7401
TIMEOUT_S = 3.0
BYTES_MAX = 8 << 20

_SAMPLE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)$")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@dataclass(frozen=True, slots=True)
class Metrics:
    """One look at a server's metrics, in the Prometheus text format."""

    samples: tuple[tuple[str, dict[str, str], float], ...]

    @classmethod
    def parse(cls, text: str) -> Metrics:
        """From the endpoint's answer; lines that are no samples are skipped."""
        found = []
        for line in text.splitlines():
            match = _SAMPLE.match(line)
            if match:
                try:
                    found.append((match[1], dict(_LABEL.findall(match[2] or "")), float(match[3])))
                except ValueError:
                    continue
        return cls(tuple(found))

    def total(self, name: str, **labels: str) -> float:
        """The sum of all samples of this name that have these labels."""
        return sum(
            value
            for found, own, value in self.samples
            if found == name and all(own.get(label) == wanted for label, wanted in labels.items())
        )

    def __contains__(self, name: str) -> bool:
        return any(found == name for found, _, _ in self.samples)

    def by(self, name: str, label: str) -> dict[str, float]:
        """The samples of this name, by one label."""
        return {own[label]: value for found, own, value in self.samples if found == name and label in own}


def addresses(url: str, option: str | None) -> list[str]:
    """Where the metrics of the servers of `url` are: what `--metrics` says, or the usual port of each host.

    Empty for `off` and for a directory in this process. Raises CliError for what is no address.
    """
    if option == "off":
        return []
    if option:
        found = [part for part in option.split(",") if part]
        for address in found:
            _place(address)
        return found
    target = parse(url)
    if target.embedded:
        return []
    hosts = dict.fromkeys(host.rpartition(":")[0] for host in target.hosts)
    return [f"http://{host}:{METRICS_PORT}/metrics" for host in hosts]


def _place(address: str) -> tuple[str, int, str]:
    parts = urlsplit(address if "://" in address else f"http://{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if parts.scheme != "http" or not host:
        raise CliError(f"not an address of metrics: {address!r}; say http://HOST:PORT/metrics", Exit.USAGE)
    return host, port or METRICS_PORT, parts.path or "/metrics"


def short_address(address: str) -> str:
    """For people: host and port."""
    host, port, _ = _place(address)
    return f"{host}:{port}"


def fetch(address: str) -> Metrics:
    """Read the endpoint. Blocks up to TIMEOUT_S. Raises CliError for a wrong address, OSError where nobody answers."""
    host, port, path = _place(address)
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read(BYTES_MAX)
    except http.client.HTTPException as error:
        raise OSError(f"{address} does not speak HTTP ({type(error).__name__})") from None
    finally:
        connection.close()
    if response.status != 200:
        raise OSError(f"{address} answers {response.status}")
    return Metrics.parse(body.decode("utf-8", "replace"))
