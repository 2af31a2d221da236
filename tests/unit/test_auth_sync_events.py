"""Following the admin events: whom they concern, and that none is missed or seen twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qhub_auth.errors import KeycloakUnavailableError
from qhub_auth.keycloak.events import AdminEvent, Cursor, admin_event, touched


def event(
    ident: str = "e",
    at: int = 1,
    resource: str = "USER",
    path: str = "users/s",
    operation: str = "UPDATE",
) -> AdminEvent:
    return AdminEvent(ident, at, resource, operation, path)


@pytest.mark.parametrize(
    ("resource", "path", "people", "directory", "everything"),
    [
        ("GROUP_MEMBERSHIP", "users/s1/groups/g1", {"s1"}, False, False),
        ("USER", "users/s1", {"s1"}, False, False),
        ("CLIENT_ROLE_MAPPING", "users/s1/role-mappings/clients/c", {"s1"}, False, False),
        ("REALM_ROLE_MAPPING", "users/s1/role-mappings/realm", {"s1"}, False, False),
        ("CLIENT_ROLE_MAPPING", "groups/g1/role-mappings/clients/c", set(), True, False),
        ("GROUP", "groups/g1", set(), True, False),
        ("GROUP", "groups", set(), True, False),  # moved to the top: Keycloak does not say which
        ("GROUP", "groups/g1/children", set(), True, False),
        ("CLIENT_ROLE", "clients/c/roles/reader", set(), True, False),
        ("REALM_ROLE", "roles-by-id/r/composites", set(), True, False),
        ("CLIENT", "clients/c", set(), True, False),
        ("REALM", "", set(), False, True),
        ("USER", "", set(), False, True),
        ("COMPONENT", "components/x", set(), False, False),
    ],
)
def test_whom_it_concerns(
    resource: str, path: str, people: set[str], directory: bool, everything: bool
) -> None:
    """Each kind of event says who is to be read again; what is not understood is everything."""
    found = touched([event(resource=resource, path=path)])
    assert (set(found.people), found.directory, found.everything) == (people, directory, everything)
    assert bool(found) is bool(people or directory or everything)


def test_failed_is_nothing() -> None:
    """What Keycloak refused has changed nothing."""
    failed = admin_event(
        {"time": 1, "resourceType": "USER", "resourcePath": "users/s", "error": "no"}
    )
    assert not touched([failed])


@pytest.mark.parametrize("time", [None, "1", -1, True, 1.5])
def test_what_is_no_event(time: object) -> None:
    """An event without a time is no answer."""
    with pytest.raises(KeycloakUnavailableError):
        admin_event({"time": time})


def test_events_without_id() -> None:
    """Where Keycloak names no id, the same event has the same one, and another one another."""
    one = {"time": 5, "resourceType": "USER", "operationType": "CREATE", "resourcePath": "users/s"}
    assert admin_event(one).id == admin_event(dict(one)).id
    assert admin_event(one).id != admin_event({**one, "time": 6}).id


histories = st.lists(st.integers(0, 400), min_size=1, max_size=30)


@given(times=histories, looks=st.lists(st.integers(0, 500), max_size=12), late=st.data())
def test_each_event_once(times: list[int], looks: list[int], late: st.DataObject) -> None:
    """However often it is looked, and though events appear late by up to the overlap, each is seen once."""
    overlap = 50
    shown = [
        (at + late.draw(st.integers(0, overlap)), event(str(number), at))
        for number, at in enumerate(times)
    ]
    cursor = Cursor(0)
    seen: list[str] = []
    for look in [*sorted(looks), 1000]:
        cursor = Cursor.parse(cursor.text()) or cursor  # as after a restart
        since = cursor.since(overlap)
        answer = [each for appears, each in shown if appears <= look and each.time_ms >= since]
        assert not cursor.gap(answer)
        seen += [each.id for each in cursor.new(answer)]
        cursor = cursor.advanced(answer, overlap)
    assert sorted(seen) == sorted(str(number) for number in range(len(times)))


def test_gap() -> None:
    """Where none of what was seen is there any more, events were thrown away; then it begins anew."""
    first = [event("1", 100), event("2", 110)]
    cursor = Cursor(0).advanced(first, 50)
    assert not cursor.gap(first[1:])
    assert cursor.gap([])
    assert cursor.gap([event("3", 120)])
    after = cursor.advanced([], 50)
    assert not after.gap([])
    assert after.since(50) == 60
    assert not Cursor(7).gap([])


def test_clock_set_back() -> None:
    """When Keycloak's clock is set back, what happens since then is seen."""
    cursor = Cursor(0).advanced([event("1", 10_000)], 50, 10_000)
    assert cursor.since(50, 2_000) == 1_950
    again = cursor.advanced([event("1", 10_000), event("2", 2_000)], 50, 2_000)
    assert [each.id for each in cursor.new([event("1", 10_000), event("2", 2_000)])] == ["2"]
    assert again.since(50, 2_100) == 2_050


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "x",
        "[]",
        "{}",
        '{"time_ms": "1", "seen": {}}',
        '{"time_ms": 1, "seen": {"a": "b"}}',
    ],
)
def test_no_cursor(text: str | None) -> None:
    """What is no cursor counts as none."""
    assert Cursor.parse(text) is None
