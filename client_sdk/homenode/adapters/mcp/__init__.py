"""MCP: a server (`homenode mcp`) through which any MCP client reads, writes and watches a directory's artifacts."""

try:
    import mcp.server.lowlevel as _  # noqa: F401
except ImportError as _missing:
    raise ImportError("homenode.adapters.mcp needs the MCP library: pip install 'homenode[mcp]'") from _missing

from homenode.adapters.mcp.server import serve_http, serve_stdio

__all__ = ["serve_http", "serve_stdio"]
