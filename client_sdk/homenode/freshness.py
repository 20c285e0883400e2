"""How fresh copies are: until when each may be served, and how old the oldest was that may have been. Pure.

What ends a window, and why a copy in an open one needs no question, is told in `cache`.
"""

from __future__ import annotations

from homenode.artifact import NEVER, Window
from homenode.clock import NS_PER_MS
from homenode.leases import deadline_ns

_WINDOWS_MAX = 64


class Freshness:
    """When the directory was last heard of, as windows: one for each greatest age in use, and that of strict copies.

    Attributes:
        strict: the window of strict copies.
        live_ms: how long the session lives after a sign of life; no window is longer, because a session that is over is
            not waited for when its copies must go.
    """

    def __init__(self) -> None:
        self.strict = Window(0)
        self.live_ms = 0  # not known
        self._windows: dict[int, Window] = {}
        self._confirmed_ns = -1
        self._oldest_ns = 0
        self._open = False

    def window(self, max_age_ms: int) -> Window:
        """The window of copies that may be `max_age_ms` old. Of too many ages, a smaller one serves."""
        max_age_ns = max_age_ms * NS_PER_MS
        window = self._windows.get(max_age_ns)
        if window is None:
            if len(self._windows) >= _WINDOWS_MAX:
                lower = [age for age in self._windows if age <= max_age_ns]
                return self._windows[max(lower)] if lower else NEVER
            window = self._windows[max_age_ns] = Window(max_age_ns)
            if self._open:
                self._set(window)
        return window

    def confirm(self, sent_ns: int, lease_ms: int = 0) -> None:
        """An echo came back on the current stream: everything committed before `sent_ns` is known here.

        `lease_ms`: how long strict copies may be served from then; 0: no longer than before.
        """
        if self._open and sent_ns <= self._confirmed_ns:
            return
        self._confirmed_ns = max(self._confirmed_ns, sent_ns)
        self._open = True
        for window in self._windows.values():
            self._set(window)
        if lease_ms:
            self.strict.confirmed_ns = sent_ns
            self.strict.until_ns = max(self.strict.until_ns, deadline_ns(sent_ns, lease_ms))

    def aged(self, now_ns: int) -> None:
        """A confirmation is about to be noted: until now, copies may have been served as old as the former allows."""
        if self._confirmed_ns >= 0:
            allowed_ns = max((window.max_age_ns for window in self._windows.values()), default=0)
            self._oldest_ns = max(self._oldest_ns, min(now_ns - self._confirmed_ns, allowed_ns))

    def take_age_ns(self, now_ns: int) -> int:
        """No lazy copy was served at a greater age than this since the last time that this was asked."""
        self.aged(now_ns)
        oldest_ns, self._oldest_ns = self._oldest_ns, 0
        return oldest_ns

    def close(self) -> None:
        """The stream is lost: nothing may be served until the next echo."""
        self._open = False
        for window in (self.strict, *self._windows.values()):
            window.until_ns = -1

    def _set(self, window: Window) -> None:
        window.confirmed_ns = self._confirmed_ns
        window.until_ns = self._confirmed_ns + window.max_age_ns
        if self.live_ms:
            window.until_ns = min(window.until_ns, deadline_ns(self._confirmed_ns, self.live_ms))

    @property
    def is_open(self) -> bool:
        """Whether the current stream has confirmed anything."""
        return self._open

    @property
    def confirmed_ns(self) -> int:
        """Send time of the last ping whose echo came back; -1: none yet."""
        return self._confirmed_ns
