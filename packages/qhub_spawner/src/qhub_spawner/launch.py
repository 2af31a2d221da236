"""What a backend is asked to start, and what it says back: the contract of every backend.

A backend is one object per hub (it owns connections and caches); it hands out one
`BackendServer` for each single-user server. `QHubSpawner` only delegates to it.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from qhub_spawner.errors import QHubSpawnerError

if TYPE_CHECKING:
    from qhub_spawner.access import Limits, Selection
    from qhub_spawner.availability import Availability
    from qhub_spawner.identity import Identity
    from qhub_spawner.profiles import Profile


@dataclass(frozen=True)
class Launch:
    """One server to start.

    Attributes:
        user: The account the server runs as, as the target system knows it.
        server_name: The hub's name of the server; empty for the default server.
        selection: What the person chose, already decided by `qhub_spawner.access.select`.
        environment: The server's whole environment. It holds secrets: it never appears in
            ``repr``, in a log, or on a command line.
        argv: The server's command and arguments, one element each.
        grace_seconds: How long a stop waits before the server is ended by force.
        identity: The person's numbers, home and groups, if the authenticator gives them.
        alternatives: Whether the server can be started elsewhere if there is no room here.
    """

    user: str
    server_name: str
    selection: Selection
    environment: Mapping[str, str] = field(repr=False)
    argv: tuple[str, ...]
    grace_seconds: float = 10.0
    identity: Identity | None = None
    alternatives: bool = False


def default_hub_id(cookie_secret: bytes) -> str:
    """Return a name for a hub that lasts and differs from every other hub's: 10 hex digits."""
    return hashlib.blake2b(cookie_secret, digest_size=5, person=b"qhub-hub-id").hexdigest()


@dataclass(frozen=True)
class ServerAddress:
    """Where a server listens: a host name or IP address (v6 without brackets), and a TCP port."""

    host: str
    port: int


@dataclass(frozen=True)
class Progress:
    """One step of a start, in words for the person who waits; `percent` is 0 to 100."""

    message: str
    percent: int


@dataclass(frozen=True)
class Ended:
    """A server that its system says is over: never made from a missing answer.

    Attributes:
        exit_code: As `Spawner.poll` returns it; 0 only where the server ended by itself.
        words: Why it ended, for the person.
    """

    exit_code: int
    words: str


class StartFailedError(QHubSpawnerError):
    """A server did not start; the text says why, for the person.

    Attributes:
        status_code: The HTTP status that answers the request to start.
    """

    def __init__(self, words: str, *, status_code: int = 500) -> None:
        """Take the words for the person."""
        super().__init__(words)
        self.words = words
        self.status_code = status_code


class NoCapacityError(StartFailedError):
    """A server did not start because there is no room for it: another backend may have some."""


class StopFailedError(QHubSpawnerError):
    """The target system did not confirm that a server has ended; it may still run."""


class AddressRefusedError(QHubSpawnerError):
    """A reported address is not taken.

    Attributes:
        status_code: 400 for an address that can never be right, 409 for one at the wrong time.
    """

    def __init__(self, words: str, *, status_code: int = 409) -> None:
        """Take the words for the log of the job."""
        super().__init__(words)
        self.status_code = status_code


class BackendServer(ABC):
    """One single-user server on one backend."""

    @abstractmethod
    async def start(self, launch: Launch) -> ServerAddress:
        """Start the server and return its address once it has reported it.

        May be cancelled at any await; `stop` is then called and leaves nothing behind.

        Raises:
            StartFailedError: The server ended, or could not be started; says why.
        """

    @abstractmethod
    async def poll(self) -> Ended | None:
        """Return ``None`` while the server lives or nothing certain is known, else how it ended."""

    @abstractmethod
    async def stop(self, *, now: bool = False) -> None:
        """End the server; return only when its system agrees.

        Args:
            now: Skip the grace time.

        Raises:
            StopFailedError: The system did not confirm the end in time.
        """

    @abstractmethod
    def progress(self) -> AsyncIterator[Progress]:
        """Yield what happens while the server starts; ends when it has started."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Return what must outlive the hub, as JSON."""

    @abstractmethod
    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up a server that an earlier hub started."""

    address: ServerAddress | None = None
    """Where the server listens, once that is known."""

    @property
    def unfinished(self) -> bool:
        """Whether an earlier hub began the start, and no hub has seen the server's address yet."""
        return False

    @property
    def waits(self) -> bool:
        """Whether the server lives but cannot answer now, as one that is suspended."""
        return False

    async def resume(self) -> ServerAddress:
        """Go on with a start that is `unfinished`: as `start`, but nothing is started anew.

        Raises:
            StartFailedError: It has ended meanwhile, or never began; says why.
        """
        msg = "this server's start cannot be gone on with"
        raise StartFailedError(msg)

    def release(self) -> None:  # noqa: B027 - a backend may watch nothing
        """Watch the server no longer: the hub has forgotten it, whether it was stopped or ended."""

    async def accept_address(self, address: ServerAddress) -> bool:
        """Take the address the server itself reports; backends that do not ask for one refuse.

        Returns:
            Whether the address is new and the hub must route to it.

        Raises:
            AddressRefusedError: The server is not in a state to report this address.
        """
        msg = f"this server's address is known to the hub already; {address.host} is not needed"
        raise AddressRefusedError(msg)


class Backend(Protocol):
    """One target system, shared by every server of the hub.

    A protocol and no base class, because backends are traitlets' configurables.
    """

    name: ClassVar[str]

    def server(self, owner: Any) -> BackendServer:
        """Return a new server object for `owner` (a `qhub_spawner.slurm.server.Owner`-like)."""

    async def open(self) -> None:
        """Start background work. Called once, when the hub starts."""

    async def close(self) -> None:
        """End background work; servers go on."""

    def check(self, profiles: tuple[Profile, ...]) -> None:
        """Refuse profiles this backend could not start as configured.

        Raises:
            ConfigurationError: Names each problem.
        """

    async def availability(
        self, profiles: tuple[Profile, ...], user: str
    ) -> Mapping[str, Availability]:
        """Return what each profile (by slug) would meet now, from a cache shared by everyone.

        `user` is who looks; a backend may ask its scheduler in their name.
        """

    async def limits(self, user: str) -> Limits | None:
        """Return the limits the target system records for a person; ``None`` if it records none."""
        ...
