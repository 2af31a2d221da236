"""The door to Keycloak's admin API: whole answers or an error, few calls, one token."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from traitlets.config import Config

from qhub_auth.errors import ConfigurationError, KeycloakRefusedError, KeycloakUnavailableError
from qhub_auth.keycloak import representations as read
from qhub_auth.keycloak.admin import KeycloakAdmin
from qhub_auth.keycloak.settings import Keycloak
from qhub_auth.sync.reading import read_everything

SECRET = "the-secret-canary"
BASE = "http://keycloak.test/auth"
TOKEN_PATH = "/auth/realms/r/protocol/openid-connect/token"
Reply = Callable[[httpx.Request], httpx.Response]


def settings(**more: Any) -> Keycloak:
    config = Config()
    config.Keycloak.update(
        {"issuer": f"{BASE}/realms/r", "client_id": "hub", "client_secret": SECRET, **more}
    )
    return Keycloak(config=config)


class Server:
    """Answers by path below the realm's admin address; counts what it is asked."""

    def __init__(self, **replies: Any) -> None:
        self.replies: dict[str, Any] = replies
        self.asked: list[httpx.Request] = []
        self.tokens = 0
        self.lifetime: Any = 300
        self.worn: set[str] = set()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == TOKEN_PATH:
            return self.token(request)
        self.asked.append(request)
        bearer = request.headers["Authorization"].removeprefix("Bearer ")
        if bearer in self.worn:
            return httpx.Response(401, json={"error": "HTTP 401 Unauthorized"})
        path = request.url.path.removeprefix("/auth/admin/realms/r")
        reply = self.replies.get(path, (404, {"error": "no such thing"}))
        if callable(reply):
            reply = reply(request)
        if isinstance(reply, httpx.Response):
            return reply
        if isinstance(reply, Exception):
            raise reply
        status, body = reply if isinstance(reply, tuple) else (200, reply)
        return httpx.Response(status, json=body)

    def token(self, request: httpx.Request) -> httpx.Response:
        self.tokens += 1
        assert SECRET in request.content.decode()
        claims = base64.urlsafe_b64encode(json.dumps({"iat": time.time() - 3600}).encode()).decode()
        token = f"{self.tokens}.{claims.rstrip('=')}.s"
        return httpx.Response(200, json={"access_token": token, "expires_in": self.lifetime})

    @property
    def paths(self) -> list[str]:
        return [request.url.path.removeprefix("/auth/admin/realms/r") for request in self.asked]


def door(server: Server, **more: Any) -> KeycloakAdmin:
    return KeycloakAdmin(settings(**more), httpx.AsyncClient(transport=httpx.MockTransport(server)))


def paged(items: list[Any]) -> Reply:
    def reply(request: httpx.Request) -> httpx.Response:
        first, size = int(request.url.params["first"]), int(request.url.params["max"])
        return httpx.Response(200, json=items[first : first + size])

    return reply


def user(number: int, **more: Any) -> dict[str, Any]:
    return {"id": f"s{number}", "username": f"u{number}", "enabled": True, **more}


# ---- tokens


async def test_one_token_for_many() -> None:
    """Many calls at once take one token, and a later one the same."""
    server = Server(**{"/groups/count": {"count": 0}})
    admin = door(server)
    await asyncio.gather(*(admin.get("/groups/count") for _ in range(20)))
    await admin.get("/groups/count")
    assert server.tokens == 1
    assert admin.calls == 22


async def test_token_renewed_in_time() -> None:
    """A token is not used to its very end."""
    server = Server(**{"/x": []})
    server.lifetime = 0.0
    admin = door(server)
    await admin.get("/x")
    await admin.get("/x")
    assert server.tokens == 2


async def test_new_token_on_401() -> None:
    """A token that Keycloak does not take any more is replaced once; if that does not help, it is said."""
    server = Server(**{"/x": [1]})
    admin = door(server)
    await admin.get("/x")
    server.worn = {
        request.headers["Authorization"].removeprefix("Bearer ") for request in server.asked
    }
    assert await asyncio.gather(admin.get("/x"), admin.get("/x")) == [[1], [1]]
    assert server.tokens == 2
    refusing = Server(**{"/x": (401, {})})
    with pytest.raises(KeycloakRefusedError) as caught:
        await door(refusing).get("/x")
    assert caught.value.status == 401
    assert refusing.tokens == 2


async def test_clock() -> None:
    """Keycloak's clock is known from its tokens."""
    admin = door(Server(**{"/x": []}))
    assert admin.now_ms is None
    await admin.get("/x")
    assert admin.now_ms is not None
    assert abs(admin.now_ms / 1000 - (time.time() - 3600)) < 5


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (httpx.Response(401, json={"error": "unauthorized_client"}), KeycloakRefusedError),
        (httpx.Response(200, json={"access_token": 1, "expires_in": 1}), KeycloakUnavailableError),
        (httpx.Response(200, json=[]), KeycloakRefusedError),
        (httpx.Response(200, text="<html>"), KeycloakUnavailableError),
        (httpx.Response(503), KeycloakUnavailableError),
    ],
)
async def test_no_token(answer: httpx.Response, kind: type[Exception]) -> None:
    """Without a token it is said why, and the secret is not."""
    server = Server()
    server.token = lambda request: answer  # type: ignore[method-assign]
    with pytest.raises(kind) as caught:
        await door(server).get("/x")
    assert SECRET not in str(caught.value)


async def test_no_secret() -> None:
    """A secret that is missing is a matter of configuration."""
    with pytest.raises(ConfigurationError):
        await door(Server(), client_secret="").get("/x")


# ---- broken answers


BROKEN: list[Any] = [
    httpx.Response(200, text="<html>log in</html>", headers={"content-type": "text/html"}),
    httpx.Response(200, content=b'[{"id": "s1", "user'),
    httpx.Response(200, content=b""),
    {"error": "?"},
    "text",
    None,
    [1],
    [{"id": "s1"}],
    [{"id": "s1", "username": "u", "enabled": "yes"}],
    [{"id": 1, "username": "u", "enabled": True}],
    [user(1, attributes=[])],
    [user(1, attributes={"uidNumber": "1"})],
    [user(1, email=7)],
    (500, {}),
    (502, {}),
    (503, {}),
    (504, {}),
    (429, {}),
    httpx.ConnectError("no"),
    httpx.ReadTimeout("late"),
    httpx.RemoteProtocolError("cut off"),
]


@pytest.mark.parametrize("answer", BROKEN)
async def test_broken_is_never_nobody(answer: Any) -> None:
    """Whatever is not a whole list of users raises; nothing is made of its parts."""
    with pytest.raises(KeycloakUnavailableError):
        async for _ in door(Server(**{"/users": answer})).everybody():
            pass


@pytest.mark.parametrize(
    ("reply", "refused"),
    [
        ((404, {"error": "Realm not found."}), True),
        ((404, {}), True),
        (httpx.Response(404, text="<html>not here</html>"), True),
        ((403, {"error": "HTTP 403 Forbidden"}), True),
        ((404, {"error": "User not found"}), False),
    ],
)
async def test_only_keycloak_says_that_somebody_is_gone(reply: Any, refused: bool) -> None:
    """A 404 means that there is no such person only in Keycloak's own words."""
    server = Server(**{"/users/s1": reply, "/clients": [{"id": "uuid", "clientId": "hub"}]})
    admin = door(server)
    for ask in (admin.account, admin.member, admin.person):
        if refused:
            with pytest.raises(KeycloakRefusedError):
                await ask("s1")
        else:
            assert await ask("s1") is None


async def test_missing_right_is_named() -> None:
    """What the service account may not do is said, with the place."""
    with pytest.raises(KeycloakRefusedError, match="realm-management") as caught:
        await door(Server(**{"/groups/count": (403, {"error": "HTTP 403 Forbidden"})})).groups()
    assert "/groups/count" in str(caught.value)


async def test_client_that_cannot_be_seen() -> None:
    """Without view-clients the client is not shown: that is said, and not that it has no roles."""
    with pytest.raises(KeycloakRefusedError, match="view-clients"):
        await door(Server(**{"/clients": []})).client_roles()


@pytest.mark.parametrize("sub", ["../roles", "a/b", "x?y=1", "a#b", "ä"])
async def test_identifiers_stay_in_their_place(sub: str) -> None:
    """An identifier with other characters is one part of a path."""
    server = Server()
    with pytest.raises(KeycloakRefusedError):
        await door(server).account(sub)
    assert (
        server.asked[0].url.raw_path.count(b"/")
        == len("/auth/admin/realms/r/users/x".split("/")) - 1
    )


# ---- pages


@pytest.mark.parametrize("count", [0, 1, 249, 250, 499, 500, 501, 1000, 1234])
async def test_all_pages(count: int) -> None:
    """Every person comes once, whatever their number."""
    server = Server(**{"/users": paged([user(number) for number in range(count)])})
    found = [each.sub async for page in door(server).everybody() for each in page]
    assert found == [f"s{number}" for number in range(count)]


async def test_short_page_in_the_middle() -> None:
    """A page from which some people were left out is not the last one."""
    pages = {0: 500, 500: 300, 1000: 500, 1500: 10}

    def reply(request: httpx.Request) -> httpx.Response:
        first = int(request.url.params["first"])
        return httpx.Response(200, json=[user(first + n) for n in range(pages.get(first, 0))])

    found = [each async for page in door(Server(**{"/users": reply})).everybody() for each in page]
    assert len(found) == 1310


async def test_groups_in_two_calls() -> None:
    """All groups come by two calls, with attributes and roles; a list that is too short is no answer."""
    groups = [
        {"id": f"g{n}", "path": f"/g{n}", "attributes": {"share": ["rw"]}, "clientRoles": {"hub": ["r"]},
         "realmRoles": ["staff"]}
        for n in range(700)
    ]  # fmt: skip
    server = Server(**{"/groups/count": {"count": 700}, "/groups": paged(groups)})
    found = await door(server).groups()
    assert len(found) == 700
    assert len(server.asked) == 2
    assert found["g1"].roles == {("hub", "r"), ("", "staff")}
    assert server.asked[1].url.params["search"] == " "
    short = Server(**{"/groups/count": {"count": 700}, "/groups": paged(groups[:699])})
    with pytest.raises(KeycloakUnavailableError, match="counts 700 groups and lists 699"):
        await door(short).groups()


@pytest.mark.parametrize("count", [None, [], {}, {"count": "7"}])
async def test_no_count(count: Any) -> None:
    """Without a number there is no list of groups."""
    with pytest.raises(KeycloakUnavailableError):
        await door(Server(**{"/groups/count": count, "/groups": []})).groups()


def small_realm() -> Server:
    """Three people, two groups, a role of the hub's in a role of the realm."""
    role = {"id": "r1", "name": "reader", "clientRole": True, "containerId": "uuid",
            "attributes": {"scopes": ["read:users, read:groups", "list:users"]}}  # fmt: skip
    staff = {
        "id": "r2",
        "name": "staff",
        "composite": True,
        "clientRole": False,
        "containerId": "r",
    }
    groups = [{"id": "g1", "path": "/a"}, {"id": "g2", "path": "/a/b", "realmRoles": ["staff"]}]
    return Server(
        **{
            "/clients": lambda request: httpx.Response(
                200,
                json=[]
                if request.url.params.get("first", "0") != "0"
                else [{"id": "uuid", "clientId": "hub"}],
            ),
            "/clients/uuid/roles": paged([role]),
            "/roles": paged([staff]),
            "/roles-by-id/r2/composites": [role],
            "/groups/count": {"count": 2},
            "/groups": paged(groups),
            "/groups/g1/members": paged([user(1), user(2)]),
            "/groups/g2/members": paged([user(2)]),
            "/roles/staff/users": paged([user(3)]),
            "/clients/uuid/roles/reader/users": paged([]),
            "/users": paged([user(1), user(2), user(3), user(4, serviceAccountClientId="x")]),
            "/users/s2": user(2, attributes={"uidNumber": ["7"], "gidNumber": ["x"]}),
            "/users/s2/groups": paged([{"id": "g1", "path": "/a"}, {"id": "g2", "path": "/a/b"}]),
            "/users/s2/role-mappings": {"realmMappings": [{"id": "r2", "name": "staff"}]},
            "/users/s2/role-mappings/clients/uuid/composite": [{"id": "r1", "name": "reader"}],
        }
    )


async def test_everything_and_each_one_agree() -> None:
    """A person is the same whether they come with everybody, alone, or by Keycloak's own sum of roles."""
    server = small_realm()
    admin = door(server)
    snapshot = await read_everything(admin)
    assert set(snapshot.people) == {"s1", "s2", "s3"}
    facts = snapshot.facts("s2")
    assert facts is not None
    assert facts.groups == {"/a", "/a/b"}
    assert facts.roles == {"reader"}
    assert snapshot.facts("s3").roles == {"reader"}  # type: ignore[union-attr]
    assert snapshot.facts("s1").roles == frozenset()  # type: ignore[union-attr]
    person = await admin.person("s2")
    assert person is not None
    assert (person.groups, person.roles, person.uid, person.gid) == (
        facts.groups,
        facts.roles,
        7,
        None,
    )
    assert snapshot.realm.client_roles["reader"].scopes == (
        "read:users",
        "read:groups",
        "list:users",
    )
    assert snapshot.realm.directory.groups["/a/b"].roles == {"reader"}


async def test_calls_do_not_grow_with_people() -> None:
    """The directory takes three calls once it is known which roles contain which; a person takes three."""
    server = small_realm()
    admin = door(server)
    await admin.directory()
    server.asked.clear()
    await admin.directory()
    assert len(server.asked) == 3
    server.asked.clear()
    await admin.person("s2")
    assert len(server.asked) == 3
    server.asked.clear()
    await admin.directory(fresh=True)
    assert len(server.asked) > 3


async def test_one_failure_fails_it_all() -> None:
    """When one list of members cannot be read there is no snapshot."""
    server = small_realm()
    server.replies["/groups/g2/members"] = (503, {})
    with pytest.raises(KeycloakUnavailableError):
        await read_everything(door(server))


async def test_not_too_many_at_once() -> None:
    """No more than eight calls are under way at a time."""
    now = most = 0

    async def answer(request: httpx.Request) -> httpx.Response:
        nonlocal now, most
        if request.url.path == TOKEN_PATH:
            return Server().token(request)
        now, most = now + 1, max(most, now + 1)
        await asyncio.sleep(0)
        now -= 1
        return httpx.Response(200, json=[])

    admin = KeycloakAdmin(settings(), httpx.AsyncClient(transport=httpx.MockTransport(answer)))
    await asyncio.gather(*(admin.all_members(f"g{number}") for number in range(100)))
    assert 1 < most <= 8


async def test_paths() -> None:
    """Whether a group is there is asked by its path, with the slashes of names kept."""
    server = Server(
        **{
            "/group-by-path/a/b": {"id": "g", "path": "/a/b"},
            "/group-by-path/gone": (404, {"error": "Group path does not exist"}),
        }
    )
    admin = door(server)
    assert await admin.has_path("/a/b")
    assert not await admin.has_path("/gone")
    with pytest.raises(KeycloakRefusedError):
        await admin.has_path("/x~/y")
    assert server.asked[-1].url.raw_path.endswith(b"/group-by-path/x%2Fy")


async def test_write_keeps_other_attributes() -> None:
    """A number that is written leaves every other attribute as it was."""
    sent: list[Any] = []

    def reply(request: httpx.Request) -> httpx.Response:
        if request.method == "PUT":
            sent.append(json.loads(request.content))
            return httpx.Response(204)
        return httpx.Response(
            200, json=user(1, attributes={"phone": ["1", "2"], "uidNumber": ["3"]})
        )

    await door(Server(**{"/users/s1": reply})).write_attributes("s1", {"uidNumber": "4"})
    assert sent[0]["attributes"] == {"phone": ["1", "2"], "uidNumber": ["4"]}
    assert sent[0]["username"] == "u1"


async def test_events_kept() -> None:
    """Whether events are kept is what Keycloak says, and nothing else."""
    for config, kept in (({"adminEventsEnabled": True}, True), ({}, False), ([], False)):
        assert await door(Server(**{"/events/config": config})).keeps_events() is kept


# ---- numbers and attributes


@pytest.mark.parametrize(
    ("value", "number"),
    [("7", 7), (" 20000 ", 20000), ("", None), ("x", None), ("1_0", None), ("-1", None), ("٣", None),
     ("99999999999", None), ("1e3", None), ("0x10", None)],
)  # fmt: skip
def test_numbers(value: str, number: int | None) -> None:
    """Only what is plainly a number is one."""
    assert read.number([value]) == number
    assert read.number([]) is None


@pytest.mark.parametrize("reading", [read.account, read.group])
@pytest.mark.parametrize("answer", [[], "text", None, 1])
def test_an_answer_of_another_shape(reading: Callable[[object], object], answer: object) -> None:
    """What is no object where one was asked for is an answer that says nothing, not a fault of ours."""
    with pytest.raises(KeycloakUnavailableError, match="is an object, but it is"):
        reading(answer)
