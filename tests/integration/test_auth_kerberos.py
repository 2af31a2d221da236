"""Log-in by a real Kerberos ticket: a real KDC, curl's SPNEGO, no password form."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import missing
from tests.systems.kerberos import REALM, KerberosSystem, sweep
from tests.systems.keycloak import Realm, claims
from tests.systems.keycloak.realms import challenge
from tests.systems.ldap import GROUPS_DN, PEOPLE_DN, READER_DN, LdapSystem
from tests.systems.processes import SystemUnavailableError

BACK = "http://127.0.0.1:8000/hub/oauth_callback"
VERIFIER = "v" * 64
SECONDS = 60


@pytest.fixture(scope="module")
def kdc() -> Iterator[KerberosSystem]:
    """A KDC with frida, who is in the directory, too, and mallory, who is not."""
    sweep()
    system = KerberosSystem({"frida": "frida-ticket", "mallory": "m"}, ("HTTP/127.0.0.1",))
    try:
        system.start()
    except SystemUnavailableError as error:
        missing("Kerberos", error)
    try:
        yield system
    finally:
        system.stop()


def kerberos(kdc: KerberosSystem, **fields: Any) -> dict[str, Any]:
    principal = f"HTTP/127.0.0.1@{REALM}"
    key_tab = str(kdc.key_tab)
    return {"realm": REALM, "server_principal": principal, "key_tab": key_tab, **fields}


@pytest.fixture(scope="module")
def federated(keycloak: Any, kdc: KerberosSystem) -> Iterator[Realm]:
    """A realm with a directory whose people may come with tickets."""
    with LdapSystem() as ldap:
        directory = {
            "url": ldap.url,
            "bind_dn": READER_DN,
            "bind_password": ldap.reader_password,
            "people_dn": PEOPLE_DN,
            "groups": {"dn": GROUPS_DN, "nested": True},
            "kerberos": kerberos(kdc),
        }
        realm = keycloak.make_realm(ldap=[directory])
        try:
            yield realm
        finally:
            realm.remove()


def with_ticket(realm: Realm, kdc: KerberosSystem, name: str, folder: Path) -> dict[str, str]:
    """Ask for the log-in page as a browser with a ticket does; returns the answer's headers."""
    curl = shutil.which("curl")
    if curl is None:
        missing("curl", SystemUnavailableError("it is not installed"))
    more = {"code_challenge": challenge(VERIFIER), "code_challenge_method": "S256"}
    url = realm.authorization_url(BACK, **more)
    done = subprocess.run(
        [str(curl), "--silent", "--show-error", "--negotiate", "--user", ":", "--cookie-jar",
         str(folder / "cookies"), "--dump-header", str(folder / "headers"), "--output",
         str(folder / "page"), url],
        env=kdc.ticket(name), stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=SECONDS, check=True,
    )  # fmt: skip
    assert not done.stderr
    # of several answers (401, then what came of the ticket) the last counts
    last = (folder / "headers").read_text().replace("\r", "").strip().split("\n\n")[-1]
    status, *lines = last.split("\n")
    return {":status": status.split()[1], **dict(line.split(": ", 1) for line in lines)}


def test_a_ticket_is_enough(federated: Realm, kdc: KerberosSystem, tmp_path: Path) -> None:
    """Who has a ticket is sent back to the hub with a code at once: no form; the directory's numbers arrive."""
    answer = with_ticket(federated, kdc, "frida", tmp_path)
    assert answer[":status"] == "302"
    assert answer["Location"].startswith(f"{BACK}?")
    with httpx.Client(timeout=SECONDS) as client:
        back = httpx.Response(302, headers={"Location": answer["Location"]})
        said = claims(federated.redeem(back, VERIFIER, client)["id_token"])
    assert said["preferred_username"] == "frida"
    assert said["uidNumber"] == "31001"
    assert said["groups"] == ["/chemistry/lab"]


def test_without_a_ticket_the_form_is_there(federated: Realm) -> None:
    """A browser without a ticket gets the form, and people log in by password as ever."""
    assert claims(federated.tokens("alice")["id_token"])["preferred_username"] == "alice"
    assert claims(federated.tokens("georg", "georg-ldap")["id_token"])["uidNumber"] == "31002"


def test_a_ticket_of_a_stranger_is_no_way_in(
    federated: Realm, kdc: KerberosSystem, tmp_path: Path
) -> None:
    """A good ticket of somebody who is not in the directory leads to the form, and to no account."""
    answer = with_ticket(federated, kdc, "mallory", tmp_path)
    assert answer[":status"] != "302"
    assert "kc-form-login" in (tmp_path / "page").read_text()
    with pytest.raises(KeyError):
        federated.admin.person("mallory")


def test_people_of_kerberos_alone(
    make_realm: Callable[..., Realm], kdc: KerberosSystem, tmp_path: Path
) -> None:
    """Without a directory a ticket makes its owner known, by name, with no number and no group."""
    realm = make_realm(kerberos=kerberos(kdc, password_log_in=False))
    answer = with_ticket(realm, kdc, "mallory", tmp_path)
    assert answer[":status"] == "302"
    with httpx.Client(timeout=SECONDS) as client:
        back = httpx.Response(302, headers={"Location": answer["Location"]})
        said = claims(realm.redeem(back, VERIFIER, client)["id_token"])
    assert said["preferred_username"] == "mallory"
    assert not said.get("groups")
    assert "uidNumber" not in said
