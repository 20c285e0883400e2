"""A Docker daemon of the test's own, on a Debian that has none and reaches no image registry; root only.

The daemon runs in a network namespace: its bridges and packet filters are as in a deployment, and the machine's own
stay as they are. Base images are made with debootstrap. What pip needs is fetched inside that base, for its Python, and
handed to the builds by a web server on the namespace's loopback.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
NAMESPACE = "homenode-compose"
SUITE = "bookworm"
BASE_PACKAGES = ("python3", "python3-venv", "python3-pip", "ca-certificates")
SERVICE_PACKAGES = ("redis-server", "prometheus", "prometheus-alertmanager", "busybox-static")
PYTHON_IMAGE, SERVICES_IMAGE = f"homenode-test/python:{SUITE}", f"homenode-test/services:{SUITE}"
WHEELS_PORT = 8099
START_S, STOP_S = 60.0, 60.0


class Failed(Exception):
    """A step did not do what it should; says what was seen."""


def run(*command: str | Path, env: dict[str, str] | None = None, timeout_s: float = 600.0, check: bool = True) -> str:
    """A command's output. Raises Failed."""
    done = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout_s,
        cwd=ROOT,
    )
    if check and done.returncode:
        raise Failed(f"{' '.join(map(str, command))} ended with {done.returncode}:\n{done.stdout[-3000:]}")
    return done.stdout


@dataclass(frozen=True)
class Machine:
    """A running daemon; `folder` has all that it keeps."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """What docker and docker-compose need to know."""
        return {
            "DOCKER_HOST": f"unix://{self.folder}/docker.sock",
            "PYTHON_IMAGE": PYTHON_IMAGE,
            "SERVICES_IMAGE": SERVICES_IMAGE,
            "DEMO_TURNS": "100",
            "DEMO_PLAYS": "4",
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": f"http://127.0.0.1:{WHEELS_PORT}/",
            "PIP_INDEX_URL": "",
            "PIP_EXTRA_INDEX_URL": "",
        }

    def docker(self, *arguments: str, check: bool = True) -> str:
        """`docker …`"""
        return run("docker", *arguments, env=self.environment, check=check).strip()

    def compose(self, *arguments: str) -> str:
        """`docker-compose …` with the deployment's file and the stand-ins."""
        files = ("-f", ROOT / "deploy/docker-compose.yml", "-f", ROOT / "tests/deploy/compose/stand-ins.yml")
        return run("docker-compose", *files, *arguments, env=self.environment)

    @staticmethod
    def inside(*command: str) -> Sequence[str]:
        """A command line that runs where published ports are those of the loopback."""
        return ("nsenter", f"--net=/run/netns/{NAMESPACE}", *command)

    def import_image(self, tree: Path, name: str) -> None:
        """A folder as an image without layers."""
        with subprocess.Popen(["tar", "-C", tree, "-c", "."], stdout=subprocess.PIPE) as tar:
            command = ["docker", "import", "-", name]
            subprocess.run(command, env={**os.environ, **self.environment}, stdin=tar.stdout, check=True,
                           stdout=subprocess.DEVNULL)  # fmt: skip


@contextlib.contextmanager
def machine() -> Iterator[Machine]:
    """Start a daemon; everything of it is gone when the block ends."""
    if os.geteuid() != 0:
        raise Failed("starting a Docker daemon takes root")
    folder = Path(tempfile.mkdtemp(prefix="hn-compose-"))
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(shutil.rmtree, folder, ignore_errors=True)
        run("ip", "netns", "add", NAMESPACE)
        cleanup.callback(run, "ip", "netns", "delete", NAMESPACE, check=False)
        run("ip", "-n", NAMESPACE, "link", "set", "lo", "up")
        made = Machine(folder)
        cleanup.enter_context(_daemon(made))
        yield made


@contextlib.contextmanager
def _daemon(made: Machine) -> Iterator[None]:
    folder = made.folder
    # Not `ip netns exec`: that mounts a fresh /sys, without the cgroups that the daemon needs.
    command = made.inside(
        "dockerd", "--data-root", f"{folder}/data", "--exec-root", f"{folder}/exec", "--pidfile", f"{folder}/pid",
        "--host", f"unix://{folder}/docker.sock", "--storage-driver", "overlay2",
    )  # fmt: skip
    with (folder / "dockerd.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    try:
        ends = time.monotonic() + START_S
        while subprocess.run(
            ["docker", "version"], env={**os.environ, **made.environment}, capture_output=True
        ).returncode:
            if process.poll() is not None or time.monotonic() > ends:
                raise Failed(f"dockerd does not start:\n{(folder / 'dockerd.log').read_text()[-3000:]}")
            time.sleep(0.2)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for mounted in reversed(_mounts_under(folder)):
            run("umount", "--lazy", mounted, check=False)


def _mounts_under(folder: Path) -> list[str]:
    places = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [place for place in places if place.startswith(f"{folder}/")]


def make_images(made: Machine) -> None:
    """The base of our own images, and the base of the stand-ins for images that come from registries."""
    tree = made.folder / "tree"
    run("debootstrap", "--variant=minbase", f"--include={','.join(BASE_PACKAGES)}", SUITE, tree)
    _tidy(tree)
    made.import_image(tree, PYTHON_IMAGE)
    _fetch_wheels(made, tree)
    shutil.copy("/etc/resolv.conf", tree / "etc/resolv.conf")
    run("chroot", tree, "apt-get", "-qq", "update")
    install = ("apt-get", "-qq", "install", "-y", "--no-install-recommends", *SERVICE_PACKAGES)
    run("chroot", tree, *install, env={"DEBIAN_FRONTEND": "noninteractive"})
    (tree / "bin/wget").symlink_to("busybox")
    _tidy(tree)
    made.import_image(tree, SERVICES_IMAGE)
    shutil.rmtree(tree)


def _tidy(tree: Path) -> None:
    for place in ("var/cache/apt/archives", "var/lib/apt/lists"):
        shutil.rmtree(tree / place, ignore_errors=True)
        (tree / place / "partial").mkdir(parents=True)


def _fetch_wheels(made: Machine, tree: Path) -> None:
    """What the images install, fetched by the Python that they have; this machine's pip settings hold."""
    (tree / "wheels").mkdir()
    for name in ("pyproject.toml", "deploy/requirements.py"):
        shutil.copy(ROOT / name, tree / "wheels")
    for name in ("resolv.conf", "pip.conf", "ssl/certs/ca-certificates.crt"):
        if (source := Path("/etc") / name).exists():
            shutil.copy(source, tree / "etc" / name)
    fetch = "python3 requirements.py cli server otel >r.txt && python3 -m pip -qq download -r r.txt hatchling"
    run("chroot", tree, "sh", "-c", f"cd /wheels && {fetch}")
    shutil.move(tree / "wheels", made.folder / "wheels")


@contextlib.contextmanager
def wheels(made: Machine) -> Iterator[None]:
    """Serve what was fetched to builds."""
    command = made.inside(sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(WHEELS_PORT))
    server = subprocess.Popen(
        command, cwd=made.folder / "wheels", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )  # fmt: skip
    try:
        yield
    finally:
        server.kill()
        server.wait()
