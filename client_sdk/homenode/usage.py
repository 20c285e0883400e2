"""What all agents of a connection have read, told to the directory for its metrics.

Nothing is counted here: a hit only notes itself in its agent's view, as ever. Now and then, with a ping, the views are
added up and the difference to what was told before goes along. The more artifacts there are to look through, the fewer
pings do that. What was saved goes along by agent and artifact, the largest of them; the others are added up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from homenode.clock import NS_PER_MS
from homenode.freshness import Freshness
from homenode.view import Counters, Saved, View
from homenode_api.v1 import directory_pb2 as pb

ARTIFACTS_PER_PING = 1_000
#: Savings told apart in one ping; as many more may stand for the others, one for each strategy.
SAVINGS_MAX = 56


class Meter:
    """See the module. `views` are the connection's agents; `freshness` says how old what they read may have been,
    `strategy` what an artifact's policy is called."""

    def __init__(self, views: Mapping[str, View], freshness: Freshness, strategy: Callable[[str], str]) -> None:
        self._strategy = strategy
        self._views = views
        self._freshness = freshness
        self._told = Counters()
        self._pings = 0

    def take(self, now_ns: int, last: bool = False) -> pb.Usage | None:
        """What was not told yet; None: nothing, or not now. After the `last` ping there will be no other."""
        self._pings += 1
        known = sum(len(view.shown) for view in self._views.values())
        if known > self._pings * ARTIFACTS_PER_PING and not last:
            return None
        self._pings = 0
        now, told = self._sum(), self._told
        self._told = now
        usage = pb.Usage(
            hits=now.hits - told.hits,
            misses=max(0, now.misses - told.misses - (now.stale - told.stale)),
            stale=now.stale - told.stale,
            tokens_hit=now.tokens_hit - told.tokens_hit,
            tokens_delta=now.tokens_delta - told.tokens_delta,
            tokens_unchanged=now.tokens_unchanged - told.tokens_unchanged,
            bytes_hit=now.hit_bytes - told.hit_bytes,
        )
        age_ns = self._freshness.take_age_ns(now_ns)
        if usage.hits:
            usage.age_ms = min(age_ns // NS_PER_MS, 2**32 - 1)
        self._add_savings(usage)
        return usage if usage.ByteSize() else None

    def _add_savings(self, usage: pb.Usage) -> None:
        found: list[tuple[str, str, Saved]] = []
        for view in list(self._views.values()):
            saved, view.saved = view.saved, {}
            found += [(view.agent, key, one) for key, one in saved.items() if one.tokens or one.bytes_hit]
        found.sort(key=lambda line: (-line[2].tokens, -line[2].bytes_hit, line[:2]))
        rest: dict[str, Saved] = {}
        for number, (agent, key, one) in enumerate(found):
            strategy = self._strategy(key)
            if number < SAVINGS_MAX and key:
                _write(usage.savings.add(agent=agent, key=key, strategy=strategy), one)
            else:
                rest.setdefault(strategy, Saved()).add(one)
        for strategy, one in rest.items():
            _write(usage.savings.add(strategy=strategy), one)

    def _sum(self) -> Counters:
        total = Counters()
        for view in list(self._views.values()):
            counters = view.folded()
            total.hits += counters.hits
            total.misses += counters.misses
            total.stale += counters.stale
            total.tokens_hit += counters.tokens_hit
            total.tokens_delta += counters.tokens_delta
            total.tokens_unchanged += counters.tokens_unchanged
            total.hit_bytes += counters.hit_bytes
        return total


def _write(message: pb.Saving, saved: Saved) -> None:
    message.tokens_hit, message.tokens_delta = saved.tokens_hit, saved.tokens_delta
    message.tokens_unchanged, message.bytes_hit = saved.tokens_unchanged, saved.bytes_hit
