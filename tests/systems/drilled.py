"""What a drill does to the daemons of a test system."""

from __future__ import annotations

import signal

from .processes import Daemon


class Drilled:
    """The part of a system that breaks it, and mends it."""

    stop_seconds = 10.0
    """How long a daemon may take to end before it is killed."""

    def __init__(self) -> None:
        self._daemons: dict[str, Daemon] = {}

    def daemon(self, name: str) -> Daemon:
        """A daemon by name.

        Raises:
            KeyError: There is none of that name; lists those there are.
        """
        if name not in self._daemons:
            message = f"no daemon {name!r}; there are {', '.join(self._daemons)}"
            raise KeyError(message)
        return self._daemons[name]

    def start_daemon(self, name: str) -> None:
        """Start a stopped daemon, and wait until it serves."""
        self.daemon(name).launch()
        self.daemon(name).wait_ready()

    def stop_daemon(self, name: str) -> None:
        """End a daemon as an administrator would (SIGTERM), and wait until it has gone."""
        self.daemon(name).end(grace_seconds=self.stop_seconds)

    def kill_daemon(self, name: str) -> None:
        """End a daemon with SIGKILL."""
        self.daemon(name).end(grace_seconds=0)

    def pause(self, name: str) -> None:
        """Stop a daemon's process (SIGSTOP): clients connect, and get no answer."""
        self.daemon(name).signal(signal.SIGSTOP)

    def resume(self, name: str) -> None:
        """Let a paused daemon go on (SIGCONT)."""
        self.daemon(name).signal(signal.SIGCONT)
