"""Artifacts by the hundred thousand: copies of one, made inside Redis.

Through the API a million would take an hour, and what counts is how much there is. Each copy has what an artifact has:
an entry, a history, a content of its own with its count of references, and its places in the two indexes.
"""

from __future__ import annotations

import homenode
from homenode_directory.place import Place
from tests.support.redis_process import RedisProcess

WORKSPACE = "bench"
SIZE = 1_024
BATCH = 5_000
SLICES = 16

_COPY = """
local slice, place, model, prefix, hash = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local function key(text) return slice .. text end
local now = redis.call('ZSCORE', key('bi'), hash)
for n = tonumber(ARGV[6]), tonumber(ARGV[7]) do
  local name, own = prefix .. n, string.sub(hash, 1, 44) .. string.format('%020d', n)
  for _, kind in ipairs({'e/', 'v/'}) do
    redis.call('COPY', key(kind .. place .. model), key(kind .. place .. name))
  end
  redis.call('COPY', key('b/' .. hash), key('b/' .. own))
  redis.call('COPY', key('br/' .. hash), key('br/' .. own))
  redis.call('ZADD', key('bi'), now, own)
  redis.call('ZADD', key('i/' .. string.sub(place, 1, -2)), 0, name)
end
"""


async def _model(address: str, text: str) -> str:
    """The artifact that is copied; nobody shares it. Returns the hash of its content."""
    async with homenode.connect(f"homenode://{address}/{WORKSPACE}", agent="model") as hn:
        found = await hn.read("model", default="")
        return (found if found.text == text else await hn.put("model", text)).hash.hex()


async def fill(redis: RedisProcess, address: str, text: str, made: int, wanted: int, prefix: str = "many/") -> None:
    """Let there be artifacts number `made` to `wanted` (without it) in the workspace of the benchmarks."""
    hash_ = await _model(address, text)
    slice_ = f"{{hn:{Place('default', WORKSPACE).slice_of(SLICES)}}}:"
    with redis.client() as client:
        client.config_set("auto-aof-rewrite-percentage", 0)  # it would be rewritten again and again
        copy = client.register_script(_COPY)
        for first in range(made, wanted, BATCH):
            last = min(first + BATCH, wanted) - 1
            copy(args=[slice_, f"default/{WORKSPACE}/", "model", prefix, hash_, first, last])
