"""What drills do with a hub, whatever its servers run on."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from tests.systems.hub import HubSystem
from tests.systems.processes import NotReadyError, wait_until

PEOPLE = ("alice", "bob")


@dataclass(frozen=True)
class Server:
    """A server of a person, by its name in the hub."""

    person: str
    name: str


class HubDrill:
    """A hub that a drill asks for servers, and looks at."""

    hub: HubSystem

    # ---- starting ----

    def request(self, server: Server, slug: str = "many") -> None:
        """Ask for a start, and do not wait for it."""
        answer = self.hub.start_server(server.person, {"profile": slug}, server.name)
        assert answer.status in {201, 202}, (answer.status, answer.text)

    def start(self, *names: str, slug: str = "many", person: str = "alice") -> list[Server]:
        """Start servers and wait until all of them are ready."""
        servers = [Server(person, name) for name in names]
        for server in servers:
            self.request(server, slug)
        for server in servers:
            self.hub.wait_ready(server.person, server.name, 60)
        return servers

    def stop(self, server: Server) -> None:
        """Stop a server, and wait until the hub says that it is stopped."""
        answer = self.hub.stop_server(server.person, server.name)
        assert answer.status in {202, 204}, (answer.status, answer.text)
        self.hub.wait_stopped(server.person, server.name)

    # ---- looking ----

    def model(self, server: Server) -> dict[str, Any]:
        """The hub's own view of a server; empty when there is none."""
        return self.hub.server(server.person, server.name) or {}

    def ended_words(self, server: Server) -> str:
        """Why a server ended, or did not start, as its person is told."""
        state = self.model(server).get("state") or {}
        return str(state.get("last_ended") or state.get("last_failed") or "")

    def wait_ended(self, server: Server, seconds: float = 40) -> str:
        """Wait until the hub knows that a server ended by itself; returns why, in words."""
        self.wait(
            lambda: not self.model(server).get("ready") and not self.model(server).get("pending"),
            seconds,
            f"the end of {server}",
        )
        return self.ended_words(server)

    def progress_says(self, server: Server, text: str, seconds: float = 30) -> str:
        """Follow a start as its waiting page does, until an event holds a text; returns it."""
        path = f"hub/api/users/{quote(server.person)}/servers/{quote(server.name)}/progress"
        request = urllib.request.Request(
            f"{self.hub.hub_url}{path}", headers={"Authorization": f"token {self.hub.token}"}
        )
        said: list[str] = []
        deadline = time.monotonic() + seconds
        with urllib.request.urlopen(request, timeout=seconds) as lines:
            for line in lines:
                if line.startswith(b"data:"):
                    said.append(str(json.loads(line[5:])["message"]))
                    if text in said[-1]:
                        return said[-1]
                if time.monotonic() > deadline:
                    break
        raise AssertionError(f"{text!r} is not in what {server} was told: {said}")

    def ask(self, server: Server, query: str = "") -> dict[str, Any]:
        """What a server says of itself, through the proxy; empty when it does not answer."""
        url = f"{self.hub.url}user/{quote(server.person)}/{quote(server.name)}/drill{query}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                found: dict[str, Any] = json.loads(answer.read())
                return found
        except (OSError, ValueError):
            return {}

    def wait(self, condition: Callable[[], Any], seconds: float, what: str) -> Any:
        """Wait for a condition; a failure shows the end of the hub's log."""
        try:
            return wait_until(condition, seconds, what, poll_seconds=0.2)
        except NotReadyError as error:
            lines = self.hub.log.read_text().splitlines()
            log = "\n".join([line for line in lines if "] 200 GET " not in line][-60:])
            raise AssertionError(f"{error}\nthe hub's log:\n{log}") from error

    def logged(self, text: str) -> int:
        """How often a text stands in what the hub has logged."""
        return self.hub.log.read_text().count(text)

    def wait_logged(self, text: str, seconds: float = 60, *, beyond: int = 0) -> None:
        """Wait until the hub has logged a text more often than `beyond` times."""
        self.wait(lambda: self.logged(text) > beyond, seconds, f"{text!r} in the log")
