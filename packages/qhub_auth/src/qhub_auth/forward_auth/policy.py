"""Which route a request takes, and whether a person may take it. Pure.

The first route that fits decides; what no route fits is refused. A request whose route depends on
how a program reads its path, or on which of two methods counts, is refused as well.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from qhub_auth.errors import ConfigurationError, shown
from qhub_auth.forward_auth.readings import AmbiguousError, readings

__all__ = ["Decision", "Original", "Person", "Policy", "Route", "Verdict"]

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_HOST = re.compile(r"(?:\*\.)?[a-z0-9_](?:[a-z0-9_.-]{0,251}[a-z0-9_])?|\[[0-9a-f:.]{2,45}\]")
_PATH = re.compile(r"/|(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9_~.@:,+=!$&'()*-]+)+")


def _host(value: str) -> str:
    host = value.lower().rstrip(".")
    if not _HOST.fullmatch(host) or ".." in host:
        msg = (
            f"{shown(value)} is no host; take a name as grafana.example.org or *.apps.example.org, "
            "without scheme and port"
        )
        raise ValueError(msg)
    return host


def _path(value: str) -> str:
    path = value.rstrip("/") or "/"
    if not _PATH.fullmatch(path):
        msg = f"{shown(value)} is no plain path; take one as /grafana, without escapes and dots"
        raise ValueError(msg)
    return path


def _method(value: str) -> str:
    method = value.upper()
    if method not in METHODS:
        msg = f"{shown(value)} is no method; take of {', '.join(sorted(METHODS))}"
        raise ValueError(msg)
    return method


def _group(value: str) -> str:
    if not value.startswith("/"):
        msg = f"{shown(value)} is no full path of a group; take one as /physics/team-a"
        raise ValueError(msg)
    return value


Name = Annotated[str, Field(min_length=1, max_length=255)]
Group = Annotated[str, Field(min_length=2, max_length=1024), AfterValidator(_group)]


class Route(BaseModel):
    """Who may reach what: one entry of ``c.ForwardAuth.routes``.

    Exactly one of `public`, `signed_in` and the four lists of roles and groups says who; of the
    lists, every one that is given must be fulfilled.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(default="", max_length=64)
    """What pages and the log call it; its first host and path when empty."""
    hosts: tuple[Annotated[str, AfterValidator(_host)], ...] = Field(min_length=1)
    """Names of hosts, without port; ``*.apps.example.org`` is every name with one part more."""
    path: Annotated[str, AfterValidator(_path)] = "/"
    """How the path begins, in whole parts: ``/api`` is ``/api`` and ``/api/x``, not ``/apis``."""
    methods: tuple[Annotated[str, AfterValidator(_method)], ...] = ()
    """Methods that it is for; all when empty. HEAD goes with GET."""
    public: bool = False
    """Open to everybody, signed in or not."""
    signed_in: bool = False
    """Open to everybody who has signed in."""
    any_role: tuple[Name, ...] = ()
    """One of these roles is needed."""
    all_roles: tuple[Name, ...] = ()
    """Each of these roles is needed."""
    any_group: tuple[Group, ...] = ()
    """One of these groups is needed, by full path; members of groups below are members."""
    all_groups: tuple[Group, ...] = ()
    """Each of these groups is needed."""
    api: bool = False
    """For programs: who has not signed in gets a plain 401, never a log-in page."""

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        lists = any((self.any_role, self.all_roles, self.any_group, self.all_groups))
        if [self.public, self.signed_in, lists].count(True) != 1:
            msg = (
                "say who may come in by one of: public = True; signed_in = True; "
                "any_role, all_roles, any_group, all_groups"
            )
            raise ValueError(msg)
        return self

    @property
    def title(self) -> str:
        """What people call it."""
        return self.name or f"{self.hosts[0]}{self.path}"

    def fits(self, method: str, path: str) -> bool:
        """Whether it is for this method and this one reading of a path."""
        if self.methods and method not in self.methods:
            return False
        return self.path in {"/", path} or path.startswith(self.path + "/")

    @property
    def folded(self) -> Self:
        """The same with its path in small letters."""
        return self.model_copy(update={"path": self.path.lower()})


@dataclass(frozen=True, slots=True)
class Original:
    """The request that the proxy asks about.

    Attributes:
        method: In capitals.
        scheme: ``http`` or ``https``.
        host: In small letters, without port and trailing dot.
        port: As the client gave it; `None` when it gave none.
        path: With its percent escapes.
        query: What followed the question mark; `None` when there was none.
        overrides: Other methods that a header asks to be taken for this one.
    """

    method: str
    scheme: str
    host: str
    port: int | None
    path: str
    query: str | None = None
    overrides: tuple[str, ...] = ()

    @property
    def origin(self) -> str:
        """Scheme, host and port, as a browser writes them."""
        usual = {"http": 80, "https": 443}[self.scheme]
        port = "" if self.port in {None, usual} else f":{self.port}"
        return f"{self.scheme}://{self.host}{port}"

    @property
    def url(self) -> str:
        """All of it."""
        return self.origin + self.path + ("" if self.query is None else f"?{self.query}")


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who has signed in, as far as routes and headers need to know.

    Attributes:
        sub: Keycloak's identifier of the person.
        name: The name they log in by.
        email: Empty when there is none.
        roles: Names of roles.
        groups: Full paths of groups, those above included.
    """

    sub: str
    name: str
    email: str = ""
    roles: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()


class Verdict(Enum):
    """What becomes of a request."""

    ALLOWED = "allowed"
    NOT_SIGNED_IN = "not signed in"
    LACKING = "lacking"
    NO_ROUTE = "no route"


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a request, and by which route.

    Attributes:
        missing: What the person would need, for people to read.
    """

    verdict: Verdict
    route: Route | None = None
    missing: tuple[str, ...] = ()


class Policy:
    """All routes, in their order."""

    def __init__(self, routes: Iterable[Route]) -> None:
        """Keep them.

        Raises:
            ConfigurationError: Two paths of one host differ only in small and capital letters.
        """
        self.routes = tuple(routes)
        self._folded = tuple(route.folded for route in self.routes)
        spelled: dict[tuple[str, str], str] = {}
        for route in self.routes:
            for host in route.hosts:
                first = spelled.setdefault((host, route.path.lower()), route.path)
                if first != route.path:
                    msg = (
                        f"c.ForwardAuth.routes: {first} and {route.path} of {host} differ only in "
                        "small and capital letters, which some programs take for the same; write "
                        "both alike"
                    )
                    raise ConfigurationError(msg)
        self._of_host = lru_cache(maxsize=1024)(self._find)

    @classmethod
    def read(cls, entries: Iterable[Mapping[str, Any]]) -> Policy:
        """Check the entries of ``c.ForwardAuth.routes``.

        Raises:
            ConfigurationError: Some are wrong; the message has a line for each problem.
        """
        routes, problems = [], []
        for at, entry in enumerate(entries):
            try:
                routes.append(Route.model_validate(entry))
            except ValidationError as error:
                for each in error.errors(include_url=False, include_context=False):
                    place = "".join(
                        f"[{part}]" if isinstance(part, int) else f".{part}" for part in each["loc"]
                    )
                    problems.append(f"c.ForwardAuth.routes[{at}]{place}: {each['msg']}")
        if problems:
            raise ConfigurationError("\n".join(problems))
        return cls(routes)

    def knows(self, host: str) -> bool:
        """Whether some route is for this host."""
        return bool(self._of_host(host))

    def _find(self, host: str) -> tuple[int, ...]:
        wild = "*." + host.partition(".")[2]
        names = {host, wild} if not host.startswith("[") else {host}
        return tuple(
            at for at, route in enumerate(self.routes) if not names.isdisjoint(route.hosts)
        )

    @staticmethod
    def _first(
        routes: tuple[Route, ...], indexes: tuple[int, ...], method: str, path: str
    ) -> int | None:
        return next((at for at in indexes if routes[at].fits(method, path)), None)

    def route_of(self, original: Original) -> Route | None:
        """Return the route of a request; `None` when there is none.

        Raises:
            AmbiguousError: It depends on how its path is read, or on which of its methods counts.
        """
        indexes = self._of_host(original.host)
        ways = readings(original.path)
        if not indexes:
            return None
        found: set[int | None] = set()
        for method in {original.method, *original.overrides}:
            counted = "GET" if method == "HEAD" else method
            for path in ways:
                found.add(self._first(self.routes, indexes, counted, path))
                # for programs that take small and capital letters for the same
                found.add(self._first(self._folded, indexes, counted, path.lower()))
        if len(found) > 1:
            raise AmbiguousError(
                "programs read this address in different ways, and different rules would apply"
            )
        at = found.pop()
        return None if at is None else self.routes[at]

    def decide(self, original: Original, person: Person | None) -> Decision:
        """Say what becomes of a request of somebody, or of nobody who is known.

        Raises:
            AmbiguousError: Its route is not certain.
        """
        return judged(self.route_of(original), person)


def judged(route: Route | None, person: Person | None) -> Decision:
    """Say what becomes of a request on its route."""
    if route is None:
        return Decision(Verdict.NO_ROUTE)
    if route.public:
        return Decision(Verdict.ALLOWED, route)
    if person is None:
        return Decision(Verdict.NOT_SIGNED_IN, route)
    missing = tuple(_missing(route, person))
    return Decision(Verdict.LACKING if missing else Verdict.ALLOWED, route, missing)


def _missing(route: Route, person: Person) -> Iterable[str]:
    for kind, wanted, had in (
        ("role", route.any_role, person.roles),
        ("group", route.any_group, person.groups),
    ):
        if wanted and had.isdisjoint(wanted):
            yield (
                f"the {kind} {wanted[0]}"
                if len(wanted) == 1
                else (f"one of the {kind}s {', '.join(wanted)}")
            )
    for kind, wanted, had in (
        ("role", route.all_roles, person.roles),
        ("group", route.all_groups, person.groups),
    ):
        for each in wanted:
            if each not in had:
                yield f"the {kind} {each}"
