r"""What is read from the headers of the proxy's question, and what is answered in headers. Pure.

Traefik 3 asks by a GET that has the client's own headers (without hop-by-hop ones, so ``Upgrade``
is never among them) and `X-Forwarded-Method`, `-Proto`, `-Host` and `-Uri` of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from qhub_auth.forward_auth.policy import METHODS, Original, Person
from qhub_auth.forward_auth.readings import AmbiguousError

__all__ = [
    "IDENTITY_HEADERS",
    "bearer_token",
    "cookies_of",
    "encoded",
    "identity_headers",
    "is_upgrade",
    "origin_of",
    "original_of",
    "refuse_aliases",
    "wants_json",
    "wants_page",
    "without_cookies",
]

Headers = Mapping[str, Sequence[str]]
"""Every value of every header, by its name in small letters."""

IDENTITY_HEADERS = (
    "X-Forwarded-User",
    "X-Forwarded-Email",
    "X-Forwarded-Groups",
    "X-Forwarded-Roles",
)
"""Set for programs behind the proxy; whatever a client sends by these names must not reach them."""
LONGEST_LIST = 4096
"""Most characters of a list of groups or roles: common servers take 8 KB of headers in all."""
_IDENTITY = frozenset(name.lower() for name in IDENTITY_HEADERS)
_NOT_ALIKE = re.compile(r"[^a-z0-9]")
_OVERRIDES = ("x-http-method-override", "x-http-method", "x-method-override")
_AUTHORITY = re.compile(
    r"(?P<host>[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252})|\[[0-9A-Fa-f:.]{2,45}\])(?::(?P<port>\d{1,5}))?"
)
_NOT_IN_A_QUERY = re.compile(r"[^\x21\x24-\x3b\x3d\x3f-\x7e]")
_SAFE = frozenset(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 !#$&'()*+-./:;<=>?@[]^_`{|}~"
)
_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
_LAST_PORT = 65535
_LONGEST_QUERY = 32_768


def _only(headers: Headers, name: str) -> str:
    values = headers.get(name.lower(), ())
    if len(values) != 1:
        raise AmbiguousError(
            f"the proxy has to send the header {name} exactly once, and sent it {len(values)} times"
        )
    return values[0].strip()


def origin_of(scheme: str, authority: str) -> tuple[str, str, int | None]:
    """Return scheme, host and port as they are compared: in small letters, no dot at the end.

    Raises:
        AmbiguousError: They are not what a browser sends.
    """
    plain = _SCHEMES.get(scheme.lower())
    if plain is None:
        raise AmbiguousError("the scheme is neither http nor https")
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        raise AmbiguousError("the host is not a name or address with or without a port")
    host = match["host"].lower().removesuffix(".")
    port = None if match["port"] is None else int(match["port"])
    if not host or ".." in host or host.endswith(".") or (port is not None and port > _LAST_PORT):
        raise AmbiguousError("the host is not a name or address with or without a port")
    return plain, host, port


def _escape(match: re.Match[str]) -> str:
    # tornado reads headers as Latin-1, byte by byte
    return "".join(f"%{byte:02X}" for byte in match[0].encode("latin-1", "replace"))


def original_of(headers: Headers) -> Original:
    """Return the request that the proxy asks about.

    Raises:
        AmbiguousError: A header is missing, stands there twice, or is not what Traefik sends.
    """
    method = _only(headers, "X-Forwarded-Method")
    if method not in METHODS:
        raise AmbiguousError("the method is none of HTTP's usual ones")
    scheme, host, port = origin_of(
        _only(headers, "X-Forwarded-Proto"), _only(headers, "X-Forwarded-Host")
    )
    path, mark, query = _only(headers, "X-Forwarded-Uri").partition("?")
    if len(query) > _LONGEST_QUERY:
        raise AmbiguousError(f"the query is longer than {_LONGEST_QUERY} characters")
    others = {value.strip().upper() for name in _OVERRIDES for value in headers.get(name, ())}
    return Original(
        method=method,
        scheme=scheme,
        host=host,
        port=port,
        path=path,
        query=_NOT_IN_A_QUERY.sub(_escape, query) if mark else None,
        overrides=tuple(sorted(others - {method})),
    )


def refuse_aliases(headers: Headers) -> None:
    """See that no header is there that some program would take for one of ours.

    Go tells ``X_Forwarded_User`` and ``X.Forwarded.User`` from ``X-Forwarded-User``; programs that
    get headers as variables (CGI, WSGI, PHP) do not.

    Raises:
        AmbiguousError: One is.
    """
    for name in headers:
        if name not in _IDENTITY and _NOT_ALIKE.sub("-", name) in _IDENTITY:
            raise AmbiguousError(f"the header {name} can be taken for one of the proxy's")


def is_upgrade(headers: Headers) -> bool:
    """Whether a WebSocket is to be opened; Traefik takes the header ``Upgrade`` itself away."""
    proto = "".join(headers.get("x-forwarded-proto", ())).lower()
    modes = headers.get("sec-fetch-mode", ())
    return "sec-websocket-key" in headers or proto in {"ws", "wss"} or "websocket" in modes


def wants_page(headers: Headers, method: str) -> bool:
    """Whether a person is about to see the answer, so that a log-in page is of use.

    Browsers say so by ``Sec-Fetch-Mode: navigate`` (on https and on this machine), and by accepting
    HTML.
    """
    if method not in {"GET", "HEAD"} or is_upgrade(headers) or "authorization" in headers:
        return False
    if "xmlhttprequest" in (value.lower() for value in headers.get("x-requested-with", ())):
        return False
    modes = headers.get("sec-fetch-mode", ())
    if modes:
        return list(modes) == ["navigate"]
    return not wants_json(headers)


def wants_json(headers: Headers) -> bool:
    """Whether HTML would be of no use: it is not named among what is accepted."""
    return "text/html" not in ",".join(headers.get("accept", ())).lower()


def bearer_token(headers: Headers) -> str | None:
    """Return the token of ``Authorization: Bearer``; `None` when there is none (RFC 6750, 2.1)."""
    values = headers.get("authorization", ())
    if len(values) != 1:
        return None
    scheme, _, token = values[0].partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def encoded(text: str) -> str:
    r"""Return `text` as a header may have it and no list of them is broken by it.

    Everything but printable ASCII, and ``%``, ``,``, ``"`` and ``\``, becomes ``%`` with two
    hexadecimal digits for each byte of its UTF-8, so that it can be read back.
    """
    trimmed = text.strip(" ")
    if trimmed == text and _SAFE.issuperset(text):
        return text
    start = len(text) - len(text.lstrip(" "))
    end = len(text) - len(text.rstrip(" "))
    inner = "".join(
        each
        if each in _SAFE
        else "".join(f"%{byte:02X}" for byte in each.encode("utf-8", "surrogatepass"))
        for each in trimmed
    )
    return "%20" * (start if trimmed else len(text)) + inner + "%20" * (end if trimmed else 0)


def _listed(names: Iterable[str], patterns: Sequence[str]) -> str:
    """Join what fits a pattern with commas, in order, as far as it is not too long."""
    text = ""
    for name in sorted(names):
        if any(fnmatchcase(name, pattern) for pattern in patterns):
            longer = f"{text},{encoded(name)}" if text else encoded(name)
            if len(longer) > LONGEST_LIST:
                break
            text = longer
    return text


def identity_headers(
    person: Person | None, *, groups: Sequence[str] = ("*",), roles: Sequence[str] = ("*",)
) -> dict[str, str]:
    """Return the headers that say to programs behind the proxy who it is; none for nobody.

    Args:
        person: Who has signed in.
        groups: Patterns of groups to name, as `fnmatch` takes them.
        roles: Patterns of roles to name.
    """
    if person is None:
        return {}
    values = (
        encoded(person.name),
        encoded(person.email),
        _listed(person.groups, groups),
        _listed(person.roles, roles),
    )
    return {name: value for name, value in zip(IDENTITY_HEADERS, values, strict=True) if value}


def cookies_of(headers: Headers, name: str) -> list[str]:
    """Return every value that a cookie has, in the order they were sent (RFC 6265, 5.4)."""
    pairs = (pair.strip().partition("=") for pair in ";".join(headers.get("cookie", ())).split(";"))
    return [value for found, _, value in pairs if found == name]


def without_cookies(headers: Headers, names: Iterable[str]) -> str:
    """Return the header ``Cookie`` without the cookies of these names; empty if none is left."""
    hidden = set(names)
    pairs = (pair.strip() for pair in ";".join(headers.get("cookie", ())).split(";"))
    return "; ".join(pair for pair in pairs if pair and pair.partition("=")[0] not in hidden)
