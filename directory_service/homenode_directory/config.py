"""Settings of a server: defaults < TOML file < HOMENODE_* variables < flags.

Every setting is a field of `Settings`; its name gives the flag (`--session-ttl-ms`), the variable
(`HOMENODE_SESSION_TTL_MS`) and the TOML key (`session_ttl_ms`).
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import logging
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from homenode_directory.errors import ConfigError

LOG = logging.getLogger("homenode.config")

OFF = "off"
PREFIX = "HOMENODE_"
SECRET_BYTES_MAX = 1_024
_WITH_PASSWORD = ("redis", "unix")
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


def _setting(default: Any, text: str, low: int | None = None, high: int | None = None, choices: str = "") -> Any:
    return field(default=default, metadata={"help": text, "low": low, "high": high, "choices": choices.split()})


@dataclass(frozen=True, slots=True)
class Settings:
    """What a server is told. Units are in the names."""

    store: str = _setting(
        "sqlite:///homenode.sqlite3",
        "sqlite:///FILE, redis://HOST:PORT/DB, rediss://…, redis+sentinel://HOST,HOST/NAME/DB, unix:///SOCKET or memory://",
    )
    store_password_file: str = _setting("", "file with the password for the Redis that store names, instead of in it")
    listen: str = _setting("127.0.0.1:7400", "address of the gRPC service, host:port")
    metrics: str = _setting("127.0.0.1:7401", "address of /metrics and /healthz, host:port, or off")
    metrics_workspaces: str = _setting(
        "", "workspaces, separated by commas, that /metrics tells apart in what was saved; others together are `other`"
    )
    tls_cert: str = _setting("", "file with the certificate chain, PEM")
    tls_key: str = _setting("", "file with its private key, PEM")
    tls_client_ca: str = _setting("", "file with the authorities whose certificates clients must show, PEM")
    insecure_listen: bool = _setting(False, "allow plain text on an address that other machines reach")
    workers: int = _setting(1, "server processes that share the port; more than one needs Redis", 1, 64)
    wait_replicas: int = _setting(0, "replicas of the Redis that must have a commit before it is answered", 0, 16)
    slices: int = _setting(0, "slices of a new store, 0: 16; an existing store keeps its own", 0, 1024)
    term_ms: int = _setting(10_000, "write lease term where a request names none; alike on all servers", 1_000, 60_000)
    session_ttl_ms: int = _setting(30_000, "how long a silent session lives, where it names no time", 5_000, 300_000)
    consistency: str = _setting(
        "lazy", "level of artifacts without a policy; alike on all servers", choices="lazy strict"
    )
    max_age_ms: int = _setting(3_000, "greatest age of a cached read; alike on all servers", 100, 600_000)
    bookmark_ms: int = _setting(1_000, "how often clients are told to ask for a bookmark", 100, 60_000)
    result_retention_ms: int = _setting(600_000, "how long answers outlive their session", 10_000, 86_400_000)
    waiters_max: int = _setting(64, "writers that may wait for one artifact", 0, 10_000)
    keep_versions: int = _setting(16, "versions of an artifact that are kept, the current one included", 1, 10_000)
    keep_age_ms: int = _setting(
        0, "earlier versions older than this are forgotten; 0: by count only", 0, 10 * 365 * 86_400_000
    )
    artifact_bytes_max: int = _setting(256 << 20, "largest artifact", 1, 256 << 20)
    cache_bytes: int = _setting(64 << 20, "content kept in memory", 0, 1 << 40)
    work_bytes: int = _setting(64 << 20, "content in work at once", 8 << 20, 1 << 40)
    stream_in_flight: int = _setting(1_024, "operations in flight on one stream", 1, 65_536)
    stream_sessions: int = _setting(4_096, "sessions on one stream", 1, 65_536)
    streams_max: int = _setting(4_096, "streams at once", 1, 1 << 20)
    queue_events: int = _setting(1_024, "events that wait for a session, before a RESYNC replaces them", 16, 1 << 20)
    queue_bytes: int = _setting(1 << 20, "bytes of events that wait for a session", 64 << 10, 1 << 30)
    log_keep: int = _setting(65_536, "entries kept of each slice's log", 1_024, 1 << 24)
    log_keep_ms: int = _setting(86_400_000, "how long they are kept; 0: only their number counts", 0, 1 << 40)
    log_archive: str = _setting("", "file.jsonl or folder to which the log is exported before it is trimmed")
    drain_ms: int = _setting(5_000, "how long clients have to go after SIGTERM", 0, 600_000)
    otlp_endpoint: str = _setting("", "OTLP collector that gets traces, http://host:4317; empty: no traces")
    trace_ratio: float = _setting(0.01, "part of the operations without a trace context that is traced", 0, 1)
    trace_keys: bool = _setting(False, "name artifacts in traces")
    log_level: str = _setting("info", "least severe log lines written", choices="debug info warning error")
    log_format: str = _setting("json", "form of log lines", choices="json text")


FIELDS = {f.name: f for f in dataclasses.fields(Settings)}
_VARIABLES = {name.upper() for name in FIELDS} | {"CONFIG", "URL", "RECORD"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a flag for every setting, and --config and --print-config."""
    parser.add_argument("--config", metavar="FILE", help="TOML file with settings (HOMENODE_CONFIG)")
    parser.add_argument("--print-config", action="store_true", help="print the effective settings and end")
    for f in FIELDS.values():
        flag = "--" + f.name.replace("_", "-")
        if isinstance(f.default, bool):
            parser.add_argument(flag, action="store_true", default=None, help=f.metadata["help"])
        else:
            metavar = "|".join(f.metadata["choices"]) or {int: "N", float: "RATIO", str: "TEXT"}[type(f.default)]
            text = f"{f.metadata['help']} (default {f.default})" if f.default != "" else f.metadata["help"]
            parser.add_argument(flag, metavar=metavar, default=None, help=text.replace("%", "%%"))


def load(arguments: argparse.Namespace | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """The effective settings. Raises ConfigError, which names the setting and where it was given."""
    environ = os.environ if environ is None else environ
    given: dict[str, Any] = dict(vars(arguments)) if arguments is not None else {}
    values: dict[str, Any] = {}
    path = given.get("config") or environ.get(PREFIX + "CONFIG")
    if path:
        values.update(_from_file(Path(path)))
    for name in FIELDS:
        variable = PREFIX + name.upper()
        if variable in environ:
            values[name] = _value(name, environ[variable], variable)
    _warn_of_strangers(environ)
    for name in FIELDS:
        if given.get(name) is not None:
            values[name] = _value(name, given[name], "--" + name.replace("_", "-"))
    return Settings(**values)


def _warn_of_strangers(environ: Mapping[str, str]) -> None:
    """A misspelt variable would be ignored in silence. Clients have some of their own."""
    for variable in sorted(environ):
        if variable.startswith(PREFIX) and variable.removeprefix(PREFIX) not in _VARIABLES:
            near = difflib.get_close_matches(variable, [PREFIX + name for name in _VARIABLES], 1)
            hint = f"; is {near[0]} meant?" if near else ""
            LOG.warning("there is no setting %s%s", variable, hint)


def _from_file(path: Path) -> dict[str, Any]:
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None
    for name in found:
        if name not in FIELDS:
            raise ConfigError(f"{path}: there is no setting {name!r}")
    return {name: _value(name, value, f"{path}: {name}") for name, value in found.items()}


def _value(name: str, value: Any, source: str) -> Any:
    f = FIELDS[name]
    kind: type[Any] = type(f.default)
    if kind is bool:
        return _bool(value, source)
    if kind is float:
        return _ratio(value, source, f.metadata["low"], f.metadata["high"])
    if kind is int:
        return _int(value, source, f.metadata["low"], f.metadata["high"])
    if not isinstance(value, str):
        raise ConfigError(f"{source} must be text, not {value!r}")
    choices = f.metadata["choices"]
    if choices and value not in choices:
        raise ConfigError(f"{source} must be one of {', '.join(choices)}, not {value!r}")
    return value


def _bool(value: Any, source: str) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in (*_TRUE, *_FALSE):
        return value.lower() in _TRUE
    raise ConfigError(f"{source} must be true or false, not {value!r}")


def _int(value: Any, source: str, low: int, high: int) -> int:
    try:
        number = int(value) if isinstance(value, str) and value.strip().lstrip("-").isdecimal() else value
    except ValueError:
        number = None
    if not isinstance(number, int) or isinstance(number, bool):
        raise ConfigError(f"{source} must be a whole number, not {value!r}")
    if not low <= number <= high:
        raise ConfigError(f"{source} must be {low} to {high}, not {number}")
    return number


def _ratio(value: Any, source: str, low: int, high: int) -> float:
    try:
        number = float("nan" if isinstance(value, bool) else value)
    except (TypeError, ValueError):
        number = float("nan")
    if not low <= number <= high:
        raise ConfigError(f"{source} must be a number from {low} to {high}, not {value!r}")
    return number


def dump(settings: Settings) -> str:
    """The settings as a TOML file, each with what it is. Passwords in the store's address are hidden."""
    lines = []
    for name, f in FIELDS.items():
        value = getattr(settings, name)
        shown = _toml(hide_password(value) if name == "store" else value)
        lines.append(f"# {f.metadata['help']}\n{name} = {shown}\n")
    return "\n".join(lines)


def store_url(settings: Settings) -> str:
    """The store's address, with the password from `store_password_file` where there is one: not to be shown.

    Raises ConfigError, which never has anything of the file in it.
    """
    path = settings.store_password_file
    if not path:
        return settings.store
    scheme, _, rest = settings.store.partition("://")
    authority, slash, tail = rest.partition("/")
    user, _, hosts = authority.rpartition("@")
    if not scheme.startswith(_WITH_PASSWORD):
        raise ConfigError(f"store_password_file: a {scheme} store has no password")
    if ":" in user or hide_password(settings.store) != settings.store:
        raise ConfigError("store_password_file: the store's address has a password already")
    return f"{scheme}://{user}:{quote(_secret(path), safe='')}@{hosts}{slash}{tail}"


def _secret(path: str) -> str:
    """The one line of a file. Raises ConfigError."""
    try:
        with open(path, "rb") as file:
            text = file.read(SECRET_BYTES_MAX + 1).decode().removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise ConfigError(f"store_password_file: cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"store_password_file: {path} is not text") from None
    if not text or len(text) > SECRET_BYTES_MAX or not text.isprintable():
        raise ConfigError(f"store_password_file: {path} must be one line of 1 to {SECRET_BYTES_MAX} characters")
    return text


def hide_password(url: str) -> str:
    """An address without its password, which may stand before the host or in the query."""
    url = re.sub(r"([?&]password=)[^&#]*", r"\1***", url)
    scheme, separator, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    user, at, host = authority.rpartition("@")
    name, colon, _ = user.partition(":")
    return f"{scheme}{separator}{name}:***@{host}{slash}{path}" if at and colon else url


def _toml(value: bool | int | float | str) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
