"""The doctor's look at KV workers: which ones the directory would send prompts to, and whether they are there."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

from homenode.cli.findings import FAULT, NOTE, OK, WARN, Finding
from homenode.cli.session import credentials
from homenode.errors import HomenodeError, InvalidArgument, NoWorker

CHECK = "kv worker"
EXCLUDE_MAX = 64  # names that a directory takes in one question
CALL_S = 5.0


async def examine(args: argparse.Namespace, hosts: Sequence[str], workspace: str) -> AsyncIterator[Finding]:
    """Findings about the workers that these servers know; none where a server knows nothing of workers."""
    answers = await asyncio.gather(*(known(args, host, workspace) for host in hosts), return_exceptions=True)
    told = {host: answer for host, answer in zip(hosts, answers, strict=True) if isinstance(answer, dict)}
    workers = {name: one for answer in told.values() for name, one in answer.items()}
    nobody = next((answer for answer in answers if isinstance(answer, NoWorker)), None)
    if nobody is not None and not workers:
        advice = "see the workers' logs: each tells every server of the directory once a second that it is there"
        yield Finding(CHECK, WARN if nobody.silent else NOTE, nobody.message, advice if nobody.silent else "")
    stats = await asyncio.gather(*(stat(args, one) for one in workers.values()), return_exceptions=True)
    alone = all(isinstance(answer, BaseException) for answer in stats)
    for (name, one), answer in zip(workers.items(), stats, strict=True):
        yield _judged(name, one, answer, FAULT if alone else WARN)
        knowing = [host for host, answer in told.items() if name in answer]
        if len(knowing) < len(hosts):
            found = f"{name} is known to {len(knowing)} of {len(hosts)} servers: {', '.join(knowing)}"
            yield Finding(CHECK, WARN, found, "name all servers in the worker's --directory")


async def known(args: argparse.Namespace, host: str, workspace: str) -> dict[str, Any]:
    """The candidates that a server would name, by the worker's name. Raises HomenodeError; NoWorker where none is."""
    from homenode.grpc_transport import GrpcTransport
    from homenode_api.v1 import directory_pb2 as pb
    from homenode_api.v1 import kv_tier_pb2 as kv

    transport = GrpcTransport([host], credentials=credentials(args))
    found: dict[str, kv.RouteCandidate] = {}
    try:
        request = pb.OpenSessionRequest(workspace=workspace, name="doctor")
        session = (await transport.call("OpenSession", request, args.timeout)).session_id
        try:
            for _ in range(EXCLUDE_MAX):  # each answer names one that is not excluded, and some others
                if len(found) >= EXCLUDE_MAX:
                    break
                asked = kv.RouteRequest(session_id=session, exclude=found, tokens_max=1)
                answer = await transport.call("Route", asked, args.timeout)
                found |= {one.worker.worker: one for one in (answer.choice, *answer.alternatives)}
        except NoWorker:
            if not found:
                raise
        finally:
            with contextlib.suppress(HomenodeError):
                await transport.call("CloseSession", pb.CloseSessionRequest(session_id=session), args.timeout)
    finally:
        await transport.close()
    return found


async def stat(args: argparse.Namespace, candidate: Any) -> Any:
    """What the worker says of itself at the address that callers are given. Raises HomenodeError."""
    from homenode.channel import Channel
    from homenode.workers import BOUNDS, PATIENCE, path_of
    from homenode_api.v1 import kv_tier_pb2 as kv

    if not candidate.address.rpartition(":")[2].isdecimal():
        raise InvalidArgument("that is no address")
    context = credentials(args)
    if context is not None:
        context.set_alpn_protocols(["h2"])
    channel = Channel(candidate.address, context, BOUNDS, PATIENCE)
    try:
        request = kv.KvTierServiceStatRequest().SerializeToString()
        data = await channel.unary(path_of("Stat"), request, min(CALL_S, args.timeout))
        return kv.KvTierServiceStatResponse.FromString(data)
    finally:
        await channel.close()


def _judged(name: str, candidate: Any, answer: Any, unreached: str) -> Finding:
    where = f"{name} at {candidate.address}"
    if isinstance(answer, HomenodeError):
        advice = (
            "prompts are sent there: give it an --advertise that callers reach, and a certificate (--listen-cert) "
            "where the directory has one; see its log, the network, the firewall"
        )
        found = f"{where} cannot be reached: {type(answer).__name__}: {answer.message}"
        return Finding(CHECK, unreached, found, advice, candidate.address)
    if isinstance(answer, BaseException):
        raise answer
    if answer.worker != candidate.worker:
        found = f"{where} is not what the directory knows: {answer.worker.worker} is there, or a later start of it"
        return Finding(CHECK, WARN, found, "give each worker a name and an address of its own", candidate.address)
    load, model = answer.load, answer.model
    busy = f"{load.running} calls under way, {load.queued} waiting"
    found = f"{where}: {model.name} on {model.device}, {answer.entries} entries of KV, {busy}"
    return Finding(CHECK, OK, found, "", candidate.address)
