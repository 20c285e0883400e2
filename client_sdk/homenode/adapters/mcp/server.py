"""The MCP server: resources are artifacts, tools read and write them; over stdio and streamable HTTP."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import mcp_types as types
import uvicorn
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.server.subscriptions import ListenHandler
from mcp.shared.exceptions import MCPError

from homenode.adapters.mcp.changes import Changes, key_of, uri_of
from homenode.adapters.tools import SHOWN_MAX, TOOLS, Toolbox, refusal
from homenode.client import Homenode
from homenode.errors import HomenodeError, InvalidArgument, NotFound, TooLarge

_INSTRUCTIONS = """\
Artifacts that several agents share: plans, notes, files. Read one before you write it, and name the version that you
read: a write over a version that you have not seen is refused, so that nobody's work is lost. To learn what others did
since, read with since=VERSION: the answer is only what changed."""
_PAGE = 200


class Service:
    """The handlers of a server over one connection to the directory."""

    def __init__(self, hn: Homenode, version: str) -> None:
        self._hn = hn
        self._toolbox = Toolbox(hn)
        self._changes = Changes(hn)
        self.server: Server[Any] = Server(
            "homenode",
            version=version,
            title="Homenode",
            instructions=_INSTRUCTIONS,
            on_list_tools=self._list_tools,
            on_call_tool=self._call_tool,
            on_list_resources=self._list_resources,
            on_list_resource_templates=self._list_templates,
            on_read_resource=self._read_resource,
            on_subscribe_resource=self._subscribe,
            on_unsubscribe_resource=self._unsubscribe,
            on_subscriptions_listen=ListenHandler(self._changes.bus),
        )

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Server[Any]]:
        """Changes are told while the block runs."""
        async with self._changes.running():
            yield self.server

    async def _list_tools(self, ctx: Any, params: Any) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[_described(name) for name in TOOLS])

    async def _call_tool(self, ctx: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        if params.name not in TOOLS:
            raise MCPError(types.INVALID_PARAMS, f"no such tool: {params.name!r}")
        try:
            answer = await self._toolbox.call(params.name, params.arguments or {})
        except HomenodeError as failure:
            return _refused(failure)
        content = types.TextContent(type="text", text=answer.text)
        return types.CallToolResult(content=[content], structured_content=dict(answer.fields))

    async def _list_resources(self, ctx: Any, params: types.PaginatedRequestParams | None) -> types.ListResourcesResult:
        after = (params.cursor if params is not None else None) or ""
        with _as_protocol_errors():
            stats = await self._hn.list(limit=_PAGE, after=after)
        resources = [
            types.Resource(
                uri=uri_of(one.key), name=one.key, mime_type=one.media_type or None, size=one.size,
                description=f"version {one.version}",
            )
            for one in stats
        ]  # fmt: skip
        cursor = stats[-1].key if len(stats) == _PAGE else None
        return types.ListResourcesResult(resources=resources, next_cursor=cursor)

    async def _list_templates(self, ctx: Any, params: Any) -> types.ListResourceTemplatesResult:
        template = types.ResourceTemplate(
            uri_template="homenode:///{+name}", name="artifact", description="A shared artifact, by its name."
        )
        return types.ListResourceTemplatesResult(resource_templates=[template])

    async def _read_resource(self, ctx: Any, params: types.ReadResourceRequestParams) -> types.ReadResourceResult:
        uri = str(params.uri)
        with _as_protocol_errors():
            async with self._hn.step():
                artifact = await self._hn.read(key_of(uri))
            if len(artifact.bytes) > SHOWN_MAX:
                raise TooLarge(f"{uri} has {len(artifact.bytes)} bytes, and an answer shows {SHOWN_MAX} at most")
        mime = artifact.media_type or None
        contents: types.TextResourceContents | types.BlobResourceContents
        try:
            contents = types.TextResourceContents(uri=uri, mime_type=mime or "text/plain", text=artifact.text)
        except UnicodeDecodeError:
            blob = base64.b64encode(artifact.bytes).decode()
            contents = types.BlobResourceContents(uri=uri, mime_type=mime or "application/octet-stream", blob=blob)
        return types.ReadResourceResult(contents=[contents])

    async def _subscribe(self, ctx: Any, params: types.SubscribeRequestParams) -> types.EmptyResult:
        with _as_protocol_errors():
            self._changes.subscribe(ctx, str(params.uri))
        return types.EmptyResult()

    async def _unsubscribe(self, ctx: Any, params: types.UnsubscribeRequestParams) -> types.EmptyResult:
        self._changes.unsubscribe(ctx, str(params.uri))
        return types.EmptyResult()


async def serve_stdio(hn: Homenode, *, version: str) -> None:
    """Serve the one client at stdin and stdout, until it goes."""
    async with Service(hn, version).running() as server, stdio_server() as (incoming, outgoing):
        await server.run(incoming, outgoing, server.create_initialization_options())


async def serve_http(hn: Homenode, host: str, port: int, *, version: str, log_level: str = "warning") -> None:
    """Serve any number of clients over streamable HTTP at `http://HOST:PORT/mcp`, until cancelled."""
    async with Service(hn, version).running() as server:
        app = server.streamable_http_app(host=host)
        settings = uvicorn.Config(app, host=host, port=port, log_level=log_level, timeout_graceful_shutdown=2)
        await uvicorn.Server(settings).serve()


def _described(name: str) -> types.Tool:
    tool = TOOLS[name]
    hints = types.ToolAnnotations(read_only_hint=tool.reads, destructive_hint=False if tool.reads else None)
    return types.Tool(name=name, description=tool.about, input_schema=tool.schema, annotations=hints)


def _refused(failure: HomenodeError) -> types.CallToolResult:
    fields = {
        name: str(value) if isinstance(value, tuple) else value
        for name, value in vars(failure).items()
        if isinstance(value, str | int | float | bool | tuple)
    }
    kind = type(failure).__name__
    text = types.TextContent(type="text", text=refusal(failure))
    told = {"error": kind, "message": str(failure), **{k: v for k, v in fields.items() if _is_json(v)}}
    return types.CallToolResult(content=[text], structured_content=told, is_error=True)


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


@contextlib.contextmanager
def _as_protocol_errors() -> Any:
    try:
        yield
    except NotFound as failure:
        raise MCPError(types.INVALID_PARAMS, f"no such resource: {failure}") from None
    except InvalidArgument as failure:
        raise MCPError(types.INVALID_PARAMS, str(failure)) from None
    except HomenodeError as failure:
        raise MCPError(types.INTERNAL_ERROR, f"{type(failure).__name__}: {failure}") from None
