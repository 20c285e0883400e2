"""Who may call: sessions of the worker's own workspace. The directory says which, before anything is looked up.

What it said is believed for a while, and for longer while it cannot be asked: then prompts without artifacts still go
on. One with artifacts does not, for the gate asks anew."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from homenode.errors import DeadlineExceeded, Unavailable
from homenode_api.v1 import kv_tier_pb2 as pb
from homenode_api.v1 import types_pb2 as t
from homenode_kv.worker.refusals import Refused

BELIEVED_S = 5.0
BELIEVED_ALONE_S = 60.0
REMEMBERED_MAX = 16_384

_REFUSED = {
    pb.ADMISSION_SESSION_OVER: (t.ERROR_REASON_SESSION_LOST, "the session is over"),
    pb.ADMISSION_OTHER_WORKSPACE: (t.ERROR_REASON_PERMISSION_DENIED, "the session is not of this worker's workspace"),
}


class Callers:
    """See the module. `ask` the directory for a session's admission; it raises HomenodeError."""

    def __init__(
        self, ask: Callable[[str], Awaitable[pb.Admission]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ask = ask
        self._clock = clock
        self._granted: OrderedDict[str, float] = OrderedDict()  # session -> when it was asked for

    async def require(self, session: str) -> None:
        """Raises Refused unless the session's owner may use what is held here; HomenodeError where nobody knows."""
        if not session:
            raise Refused(t.ERROR_REASON_UNAUTHENTICATED, "the call names no session of the directory")
        now = self._clock()
        age_s = now - self._granted.get(session, float("-inf"))
        if age_s < BELIEVED_S:
            return
        try:
            admission = await self._ask(session)
        except (Unavailable, DeadlineExceeded):
            if age_s < BELIEVED_ALONE_S:
                return
            raise
        self._granted.pop(session, None)
        if admission != pb.ADMISSION_GRANTED:
            raise Refused(*_REFUSED.get(admission, (t.ERROR_REASON_PERMISSION_DENIED, "the directory did not say yes")))
        self._granted[session] = now
        while len(self._granted) > REMEMBERED_MAX:
            self._granted.popitem(last=False)
