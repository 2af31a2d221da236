"""What `qhub-identity` takes from the settings file: who counts as somebody that may come in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qhub_auth.administration import sites
from qhub_auth.administration.sites import Everybody, Site
from qhub_auth.administration.verbs import write_nss
from qhub_auth.errors import ConfigurationError
from qhub_auth.keycloak.representations import Account, GroupRecord
from qhub_auth.keycloak.snapshot import Member, Realm, Snapshot
from qhub_auth.numbers.numbered import PersonWanted

REALM = Realm(groups={"g1": GroupRecord("g1", "/physics"), "g2": GroupRecord("g2", "/odd\u200b")})
SNAPSHOT = Snapshot(
    REALM,
    {
        "s1": Member(Account("s1", "alice"), frozenset({"g1"})),
        "s2": Member(Account("s2", "bob"), frozenset({"g2"})),
        "s3": Member(Account("s3", "carol", odd=("uidNumber is 'x'",))),
    },
)


def site_of(folder: Path, *rules: str) -> Site:
    path = folder / "qhub_auth_config.py"
    lines = [f"c.KeycloakAuthenticator.{rule}" for rule in rules]
    path.write_text(
        "c = get_config()\nc.Keycloak.issuer = 'https://k/realms/r'\n"
        "c.Keycloak.client_id, c.Keycloak.client_secret = 'hub', 'x'\n"
        "c.Keycloak.service_client_id, c.Keycloak.service_client_secret = 'service', 'x'\n"
        "c.Identities.host_accounts = 'ignore'\n" + "\n".join(lines)
    )
    return Site(path)


@pytest.fixture(autouse=True)
def keycloak(monkeypatch: pytest.MonkeyPatch) -> None:
    async def read(_: Any) -> Snapshot:
        return SNAPSHOT

    monkeypatch.setattr(sites, "read_everything", read)


async def everybody(site: Site) -> Everybody:
    try:
        return await site.everybody()
    finally:
        await site.close()


@pytest.mark.parametrize(
    ("rules", "welcome"),
    [
        (["allow_all = True"], {"s1", "s2", "s3"}),
        (["allowed_users = {'Alice'}"], {"s1"}),
        (["allowed_groups = {'/physics'}"], {"s1"}),
        (["admin_users = {'bob'}"], {"s2"}),
        (["allowed_scopes = ['hub']", "scope = ['openid', 'hub']"], {"s1", "s2", "s3"}),
        (
            ["allowed_scopes = ['hub']", "scope = ['openid', 'hub']", "blocked_users = {'Bob'}"],
            {"s1", "s3"},
        ),
    ],
)
async def test_the_rules_of_the_hub(tmp_path: Path, rules: list[str], welcome: set[str]) -> None:
    """Whoever group sync at the hub would let go on has a number, a shell and a home by the commands too."""
    found = await everybody(site_of(tmp_path, *rules))
    assert set(found.welcome()) == welcome
    assert found.odd_numbers == {"s3"}
    assert [words.partition(":")[0] for words in found.odd] == [
        "the group '/odd\\u200b' counts for nothing",
        "'carol'",
    ]


@pytest.mark.parametrize("rules", [[], ["blocked_users = {'bob'}"]])
async def test_without_a_rule_nothing_is_done(tmp_path: Path, rules: list[str]) -> None:
    """A file that lets nobody in is not the hub's rules: everybody's shell would be nologin, so no file is written."""
    site = site_of(tmp_path, *rules)
    site.identities.store.persons([PersonWanted("s1", "alice")])
    try:
        with pytest.raises(ConfigurationError, match=r"allowed_groups.*belong into the file"):
            await write_nss(site, tmp_path / "nss")
    finally:
        await site.close()
    assert not (tmp_path / "nss").exists()
