"""The rights of the directory's Redis user are what a store needs: all of it works, and nothing is left over."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis

from homenode_directory.store.base import (
    Add,
    Commit,
    Delete,
    Drop,
    Equals,
    Exists,
    Put,
    Rank,
    Store,
    Unrank,
)
from homenode_directory.store.open import open_store
from tests.support.redis_process import RedisProcess

pytestmark = pytest.mark.redis

USER = "homenode"
SETTINGS_KEPT = ("bind", "port", "dir", "aclfile", "logfile")  # of the deployment, which a test has elsewhere
ADMIN = "user admin on >admin ~* &* +@all"


@pytest.fixture
def secrets(repo_root: Path, tmp_path: Path) -> Path:
    """A folder with the secrets that deploy/secrets.sh makes."""
    deploy = tmp_path / "deploy"
    deploy.mkdir()
    shutil.copy(repo_root / "deploy/secrets.sh", deploy)
    shutil.copytree(repo_root / "deploy/redis", deploy / "redis")
    subprocess.run([deploy / "secrets.sh"], check=True, capture_output=True)
    return deploy / "secrets"


def settings(conf: Path) -> dict[str, str]:
    """redis.conf as flags, without what says where things are."""
    pairs = (line.split(maxsplit=1) for line in conf.read_text().splitlines() if line and not line.startswith("#"))
    return {name: value.strip('"') for name, value in pairs if name not in SETTINGS_KEPT}


class Deployed(RedisProcess):
    """A redis-server with the deployment's settings and users, and one more that looks on."""

    def client(self) -> redis.Redis:
        return redis.Redis(host="127.0.0.1", port=self.port, username="admin", password="admin", socket_timeout=10)


Start = Callable[[], Deployed]


@pytest.fixture
def start(secrets: Path, tmp_path: Path) -> Iterator[Start]:
    """Runs the deployment's Redis, with a user that may do anything beside its own."""
    made: list[Deployed] = []

    def start_() -> Deployed:
        users = (secrets / "redis_users.acl").read_text()
        acl = tmp_path / f"users{len(made)}.acl"
        acl.write_text(f"{users}{ADMIN}\n")
        conf = settings(secrets.parent / "redis/redis.conf")
        made.append(Deployed(tmp_path / f"data{len(made)}", {**conf, "aclfile": str(acl)}))
        made[-1].start()
        return made[-1]

    yield start_
    for server in made:
        server.kill()


def rights(acl: Path) -> set[str]:
    """The commands that the directory's user may run."""
    (line,) = (line for line in acl.read_text().splitlines() if line.startswith(f"user {USER} "))
    return {word[1:] for word in line.split() if word.startswith("+")}


async def use(store: Store) -> None:
    """Every call of the store interface, with every kind of guard and write, and hints from one client to another."""
    await store.open()
    token = (await store.adopt(3, 0)).token
    hints = aiter(store.hints())
    heard = asyncio.ensure_future(anext(hints))
    heard.cancel()  # what is asked here is whether it may subscribe
    every = Commit(
        writes=(
            Put("r", "f", "1"), Add("r", "n", 1), Drop("r", "gone"), Rank("s", "a", 0), Rank("s", "b", 0),
            Unrank("s", "b"), Put("k", "f", "1"), Delete("k"),
        ),
        log=(b"one", b"two"),
    )  # fmt: skip
    shown = Commit((Equals("r", "f", "2"),), show=("r", "s"))
    outcomes = await store.commit(3, token, [every, Commit((Exists("r"),)), shown], blobs=[("b/1", b"bytes")])
    assert [outcome.failed for outcome in outcomes] == [-1, -1, 0]
    assert outcomes[2].shown == {"r": {"f": "1", "n": "1"}, "s": {"a": 0}}
    assert (await store.commit(3, token, [Commit((Exists("r"),))], relief=True))[0].ok
    assert await store.load(3, ["r"]) == [{"f": "1", "n": "1"}]
    assert await store.ranked(3, "s") == {"a": 0}
    assert await store.by_prefix(3, "s", "a", "", 10) == ["a"]
    assert (await store.by_score(3, "s", 1))[0] == [("a", 0)]
    assert (await store.read_log(3, 0, 10, incarnation=token))[1] == 2
    assert await store.heads({3: token}) == {3: 2}
    await store.trim_log(3, 2)
    await store.put_blobs(3, [("b/2", b"more")])
    assert await store.get_blob(3, "b/2") == b"more"
    assert await store.now_ms() > 0
    assert await store.weakness() == ""


async def hint_between(one: Store, other: Store) -> None:
    """A commit of one is heard of by the other."""
    heard = asyncio.ensure_future(anext(aiter(one.hints())))
    token = (await other.adopt(5, 0)).token
    async with asyncio.timeout(10):
        while not heard.done():
            await other.commit(5, token, [Commit(writes=(Add("r", "n", 1),), log=(b"x",))])
            await asyncio.sleep(0.02)
    assert heard.result()[0] == 5


async def work(server: Deployed, secrets: Path) -> None:
    """All that a store does, as the deployment's user."""
    address = f"redis://{USER}:{(secrets / 'redis_password').read_text()}@127.0.0.1:{server.port}/0"
    one, other = open_store(address), open_store(address)
    try:
        await use(one)
        await other.open()
        await hint_between(one, other)
        with server.client() as admin:  # the script cache is gone: the scripts are sent whole
            admin.script_flush()
        token = (await one.adopt(3, 0)).token
        assert (await one.commit(3, token, [Commit((Exists("r"),))]))[0].ok
    finally:
        await one.close()
        await other.close()


def used(server: Deployed) -> set[str]:
    """Commands that were run by anyone, by scripts too."""
    with server.client() as admin:
        return {name.removeprefix("cmdstat_") for name in admin.info("commandstats")}


async def test_the_directory_may_do_what_it_does_and_nothing_else(start: Start, secrets: Path) -> None:
    server = start()
    # Connecting as the administrator and waiting for the server leave their marks: what they use is in `before`.
    before = used(server)
    await work(server, secrets)
    with server.client() as admin:
        assert admin.acl_log() == []
    granted = rights(secrets / "redis_users.acl")
    assert granted - used(server) == set(), "rights that nothing needs"
    assert used(server) - before - granted - {"auth", "acl|log", "script|flush"} == set()


@pytest.mark.parametrize("kill", [False, True])
async def test_what_was_committed_is_there_after_a_restart(start: Start, secrets: Path, kill: bool) -> None:
    """Redis reads its append-only file in the name of the default user, and skips what that user may not do."""
    server = start()
    await work(server, secrets)
    with server.client() as admin:
        before = {key: admin.dump(key) for key in admin.keys("*")}
    server.restart(kill=kill)
    with server.client() as admin:
        assert {key: admin.dump(key) for key in admin.keys("*")} == before
    assert len(before) > 4 and "CRITICAL" not in server.log()


async def test_other_keys_and_channels_are_closed(start: Start, secrets: Path) -> None:
    server = start()
    password = (secrets / "redis_password").read_text()
    with redis.Redis(host="127.0.0.1", port=server.port, username=USER, password=password) as user:
        for forbidden in (
            lambda: user.set("other", "1"),
            lambda: user.get("hn#other"),
            lambda: user.publish("other", "1"),
            lambda: user.eval("return redis.call('GET', 'other')", 0),
            user.flushall,
            user.shutdown,
            lambda: user.config_get("*"),
            lambda: user.keys("*"),
        ):
            with pytest.raises(redis.exceptions.ResponseError, match=r"permission|can't access"):
                forbidden()


def test_without_a_password_one_may_ask_whether_it_is_there(start: Start) -> None:
    server = start()
    with redis.Redis(host="127.0.0.1", port=server.port) as nobody:
        with pytest.raises(redis.exceptions.AuthenticationError):
            nobody.ping()
    with redis.Redis(host="127.0.0.1", port=server.port, username="health", password="any") as health:
        assert health.ping()
        with pytest.raises(redis.exceptions.NoPermissionError):
            health.info()


def test_secrets_are_made_once_and_only_their_owner_gets_into_the_folder(secrets: Path) -> None:
    names = {path.name for path in secrets.iterdir()}
    assert names == {"redis_password", "redis_users.acl", "grafana_password"}
    assert secrets.stat().st_mode & 0o777 == 0o700
    password = (secrets / "redis_password").read_text()
    assert len(password) == 48 and password not in (secrets / "redis_users.acl").read_text()
    subprocess.run([secrets.parent / "secrets.sh"], check=True, capture_output=True)
    assert (secrets / "redis_password").read_text() == password
    subprocess.run([secrets.parent / "secrets.sh", "--renew"], check=True, capture_output=True)
    assert (secrets / "redis_password").read_text() != password
    assert urlsplit(f"redis://u:{password}@h").password == password
