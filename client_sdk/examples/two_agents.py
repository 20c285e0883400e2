"""Two agents share a text: the writer edits, the critic reads only what changed, and neither overwrites the other.

    python two_agents.py [ADDRESS]

Without an address the directory runs in this process, in memory.
"""

from __future__ import annotations

import asyncio
import sys

import homenode

KEY = "examples/essay.md"
ESSAY = "# Caches\n\n" + "".join(f"Paragraph {i} says something about caches.\n" for i in range(60))


async def write(writer: homenode.Homenode) -> None:
    """The writer starts over, then improves one paragraph."""
    await writer.put(KEY, ESSAY, base=homenode.ANY, tags=["draft"])
    await writer.edit(KEY, lambda text: text.replace("Paragraph 30 says", "Paragraph 30 proves"))


async def criticise(critic: homenode.Homenode, seen: homenode.Artifact) -> None:
    """The critic has read one version; it is shown the change alone, and comments on it."""
    now = await critic.read(KEY, since=seen.version)
    assert now.change is not None
    print(f"the critic is shown {now.change.tokens} tokens instead of {now.change.full_tokens}:")
    print(now.change.text)
    async with critic.write(KEY) as draft:
        draft.text += "\n> The proof of paragraph 30 is missing.\n"


async def main(url: str) -> None:
    """Play one round."""
    async with (
        homenode.connect(url, agent="writer") as writer,
        homenode.connect(url, agent="critic") as critic,
    ):
        async with critic.watch("examples/") as changes:
            first = await writer.put(KEY, ESSAY, base=homenode.ANY)
            seen = await critic.read(KEY, max_age_ms=0)
            await write(writer)
            async for event in changes:
                if event.version is not None and first.version is not None and event.version > first.version:
                    break
            await criticise(critic, seen)
        try:
            await writer.put(KEY, "the writer has not seen the comment")
        except homenode.VersionConflict as conflict:
            print(f"the writer is refused: the essay is at {conflict.current}, not at {conflict.base}")
        print((await writer.read(KEY)).text.splitlines()[-1])


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "embedded://"))
