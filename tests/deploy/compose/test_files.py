"""deploy/docker-compose.yml without a Docker: what it refers to is there and understood, and everything is confined.

`make compose-test` runs it.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from homenode.cli.main import parser
from homenode_directory import config

# What Compose 1.29 and 2 both understand, of what is used here.
SERVICE_KEYS = {
    "build", "cap_drop", "command", "cpus", "depends_on", "environment", "healthcheck", "image", "logging", "mem_limit",
    "networks", "pids_limit", "ports", "profiles", "read_only", "restart", "secrets", "security_opt",
    "stop_grace_period", "tmpfs", "user", "volumes",
}  # fmt: skip
OWN_USER = {"directory-1", "directory-2", "demo", "kv-worker"}  # the Dockerfile says which
EXPECTED = {
    "kv-worker",
    "redis", "directory-1", "directory-2", "prometheus", "alertmanager", "grafana", "otel-collector", "traces", "demo",
}  # fmt: skip
VARIABLE = re.compile(r"\$\{(\w+):-([^}]*)\}")

Service = dict[str, Any]


def read(path: Path) -> Any:
    """A YAML file, with the defaults of Compose's variables."""
    return yaml.safe_load(VARIABLE.sub(lambda found: found[2], path.read_text()))


@pytest.fixture(scope="module")
def deploy(repo_root: Path) -> Path:
    return repo_root / "deploy"


@pytest.fixture(scope="module")
def compose(deploy: Path) -> dict[str, Any]:
    found: dict[str, Any] = read(deploy / "docker-compose.yml")
    return found


@pytest.fixture(scope="module")
def services(compose: dict[str, Any]) -> dict[str, Service]:
    found: dict[str, Service] = compose["services"]
    return found


def environment(service: Service) -> dict[str, str]:
    return {name: str(value) for name, value in service.get("environment", {}).items() if name.startswith("HOMENODE_")}


def test_compose_itself_accepts_it(repo_root: Path, deploy: Path, tmp_path: Path) -> None:
    tried = 0
    # Compose reads these itself: what this machine says is not what is tried.
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "COMPOSE_", "DOCKER_"))}
    for command in (["docker-compose"], ["docker", "compose"]):
        if not shutil.which(command[0]) or subprocess.run([*command, "version"], capture_output=True).returncode:
            continue
        arguments = ["-f", str(deploy / "docker-compose.yml"), "--profile", "demo", "config", "-q"]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, env=clean)
        assert (done.returncode, done.stderr) == (0, "")
        tried += 1
    if not tried:
        pytest.skip("neither docker-compose nor docker compose is here; what follows reads the file itself")


def test_it_is_the_common_subset(compose: dict[str, Any], services: dict[str, Service]) -> None:
    assert {name for name in compose if not name.startswith("x-")} == {"services", "networks", "volumes", "secrets"}
    assert set(services) == EXPECTED
    for name, service in services.items():
        assert set(service) <= SERVICE_KEYS, name


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_every_service_is_confined(services: dict[str, Service], name: str) -> None:
    service = services[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all("size=" in place for place in service["tmpfs"])
    assert service["mem_limit"] and service["cpus"] and service["pids_limit"]
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    assert service["restart"] == ("no" if name == "demo" else "unless-stopped")
    assert set(service["healthcheck"]) >= {"test", "interval", "timeout", "retries", "start_period"}
    assert not service.get("privileged") and "network_mode" not in service
    uid, _, _ = service.get("user", "").partition(":")
    assert (uid.isdecimal() and int(uid) > 0) or name in OWN_USER
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert not any(
        re.search("password|secret", key, re.I) and "FILE" not in key for key in service.get("environment", {})
    )


def test_images_have_versions(services: dict[str, Service], deploy: Path) -> None:
    found = {service["image"] for service in services.values()}
    for dockerfile in (deploy / "Dockerfile", deploy / "otel/Dockerfile"):
        text = dockerfile.read_text()
        assert not text.startswith("# syntax=")
        defaults = dict(re.findall(r"^ARG (\w+_IMAGE)=(\S+)$", text, re.M))
        found |= set(defaults.values())
        # The same default there and in the compose file.
        assert all(
            f"{name}:-{image}" in (deploy / "docker-compose.yml").read_text() for name, image in defaults.items()
        )
        assert not re.findall(r"^FROM (?!\$\{|[a-z-]+ AS|base|build)", text, re.M)
    for image in found:
        _, _, tag = image.rpartition(":")
        assert tag == "local" or re.fullmatch(r"v?\d+\.\d+(\.\d+)?(-\w+)*", tag), image


def test_what_is_mounted_and_built_is_there(
    compose: dict[str, Any], services: dict[str, Service], deploy: Path
) -> None:
    made = subprocess.run(["sed", "-n", "s/.*>\"$folder\\/\\([a-z_.]*\\)\".*/\\1/p", deploy / "secrets.sh"],
                          capture_output=True, text=True).stdout.split()  # fmt: skip
    for name, secret in compose["secrets"].items():
        assert Path(secret["file"]).name in made, name
    for service in services.values():
        assert set(service.get("secrets", ())) <= set(compose["secrets"])
        assert set(service["networks"]) <= set(compose["networks"])
        for volume in service.get("volumes", ()):
            source, _, rest = volume.partition(":")
            if source.startswith("."):
                assert (deploy / source).exists() and rest.endswith(":ro"), volume
            else:
                assert source in compose["volumes"]
        if build := service.get("build"):
            folder = deploy / build["context"]
            dockerfile = (folder / build.get("dockerfile", "Dockerfile")).read_text()
            assert f"AS {build['target']}\n" in dockerfile if "target" in build else True
            assert all(f"ARG {name}" in dockerfile for name in build["args"])


def test_what_a_file_copies_reaches_the_build(repo_root: Path) -> None:
    kept = {line[1:] for line in (repo_root / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert (repo_root / ".dockerignore").read_text().splitlines()[1] == "*"
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", (repo_root / "deploy/Dockerfile").read_text(), re.M)
    names = {name for line in copied for name in line.split()} - {"."}
    assert names <= kept
    assert {"proto", "directory_service", "client_sdk", "README.md", "LICENSE"} <= kept
    assert all((repo_root / name).exists() for name in kept)


def test_settings_are_those_of_the_directory(
    services: dict[str, Service], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    for name in ("directory-1", "directory-2"):
        said = environment(services[name])
        with caplog.at_level(logging.WARNING):
            settings = config.load(parser().parse_args(services[name]["command"]), said)
        assert caplog.records == []
        secret = tmp_path / "password"
        secret.write_text("x")
        assert Path(settings.store_password_file).name in services[name]["secrets"]
        own = config.store_url(config.load(None, {**said, "HOMENODE_STORE_PASSWORD_FILE": str(secret)}))
        assert own == "redis://homenode:x@redis:6379/0"
        grace_ms = 1_000 * int(services[name]["stop_grace_period"].removesuffix("s"))
        assert grace_ms > settings.drain_ms


def test_the_demo_is_a_command_line_that_there_is(services: dict[str, Service]) -> None:
    demo = services["demo"]
    arguments = parser().parse_args(demo["command"])
    assert arguments.command == "demo" and not arguments.serve
    assert set(re.findall(r"([\w-]+):7400", arguments.url)) == set(demo["depends_on"]) == {"directory-1", "directory-2"}
    test = demo["healthcheck"]["test"]
    assert parser().parse_args(test[2:]).command == "ls"


def test_the_store_is_out_of_reach_of_agents(compose: dict[str, Any], services: dict[str, Service]) -> None:
    on_store = {name for name, service in services.items() if "store" in service["networks"]}
    assert on_store == {"redis", "directory-1", "directory-2"}
    assert services["redis"]["networks"] == ["store"] and "ports" not in services["redis"]
    assert compose["networks"]["store"] == {"internal": True}
    assert services["demo"]["networks"] == ["agents"]
    assert "secrets" not in services["demo"]


def test_redis_keeps_what_it_is_told_within_its_limit(services: dict[str, Service], deploy: Path) -> None:
    lines = (deploy / "redis/redis.conf").read_text().splitlines()
    said = dict(line.split(maxsplit=1) for line in lines if line and not line.startswith("#"))
    assert (said["appendonly"], said["appendfsync"], said["maxmemory-policy"]) == ("yes", "everysec", "noeviction")
    limit = int(services["redis"]["mem_limit"].removesuffix("m"))
    assert 2 * int(said["maxmemory"].removesuffix("mb")) <= limit
    assert said["dir"] == "/data" and said["aclfile"] == "/run/secrets/redis_users"


def targets(tree: Any) -> set[str]:
    """Every host:port that a configuration names."""
    return {f"{host}:{port}" for host, port in re.findall(r"\b([a-z][a-z0-9-]*):(\d{2,5})\b", str(tree))}


def listening(services: dict[str, Service], deploy: Path) -> set[str]:
    """host:port of all that services say they listen on."""
    ports = {
        "directory-1": {7400, 7401}, "directory-2": {7400, 7401}, "redis": {6379}, "prometheus": {9090},
        "alertmanager": {9093}, "grafana": {3000}, "otel-collector": {4317, 4318}, "traces": {4317, 16686},
        "kv-worker": {7410, 7411},
    }  # fmt: skip
    for name, config_file in (("otel-collector", "otel/collector.yaml"), ("traces", "otel/traces.yaml")):
        said = set(map(int, re.findall(r"0\.0\.0\.0:(\d+)", (deploy / config_file).read_text())))
        assert said == ports[name], name
    for name, service in services.items():
        for port in service.get("ports", ()):
            assert int(port.rpartition(":")[2]) in ports[name], name
    return {f"{name}:{port}" for name, numbers in ports.items() for port in numbers}


def test_configurations_name_services_that_listen(services: dict[str, Service], deploy: Path) -> None:
    known = listening(services, deploy) | {"localhost:9090"}
    configured = [
        read(deploy / "prometheus/prometheus.yml"),
        *map(read, sorted((deploy / "grafana/provisioning").rglob("*.y*ml"))),
        read(deploy / "otel/collector.yaml"),
    ]
    for tree in configured:
        assert targets(tree) - {name for name in targets(tree) if name.startswith("localhost")} <= known
    scraped = targets(configured[0]["scrape_configs"])
    assert {"directory-1:7401", "directory-2:7401"} <= scraped
    assert "alertmanager:9093" in targets(configured[0]["alerting"])


@pytest.mark.parametrize("name", ["collector.yaml", "traces.yaml"])
def test_pipelines_are_made_of_parts_that_are_configured(deploy: Path, name: str) -> None:
    tree = read(deploy / "otel" / name)
    service = tree["service"]
    assert set(service["extensions"]) == set(tree["extensions"])
    for pipeline in service["pipelines"].values():
        for kind in ("receivers", "processors", "exporters"):
            assert set(pipeline[kind]) <= set(tree[kind])


def test_provisioned_dashboards_are_where_they_are_mounted(services: dict[str, Service], deploy: Path) -> None:
    mounted = dict(volume.split(":")[:2] for volume in services["grafana"]["volumes"])
    (provider,) = read(next((deploy / "grafana/provisioning/dashboards").glob("*.y*ml")))["providers"]
    assert provider["options"]["path"] == mounted["./grafana/dashboards"]
    home = services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert (deploy / "grafana/dashboards" / Path(home).name).exists()
    assert str(Path(home).parent) == mounted["./grafana/dashboards"]
