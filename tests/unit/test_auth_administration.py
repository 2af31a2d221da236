"""What `qhub-identity` does: who counts as somebody that may come in, what is archived of who is gone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from qhub_auth.administration import archiving, sites
from qhub_auth.administration.archiving import archive_folder, archive_home
from qhub_auth.administration.sites import Everybody, Site
from qhub_auth.administration.verbs import audit, sync, write_nss
from qhub_auth.errors import ConfigurationError, IdentityError
from qhub_auth.folders.verbs import Archive, Check, Verb
from qhub_auth.homes.ensuring import Result
from qhub_auth.keycloak.admin import KeycloakAdmin
from qhub_auth.keycloak.representations import Account, GroupRecord
from qhub_auth.keycloak.snapshot import Member, Realm, Snapshot
from qhub_auth.numbers.numbered import GroupWanted, PersonWanted

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


async def test_what_somebody_wrote_is_not_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Numbers are written back where there are none; who has one that counts for nothing is named, and it stays for somebody to mend."""
    written: list[str] = []

    async def write(self: KeycloakAdmin, sub: str, values: Mapping[str, str]) -> None:
        written.append(sub)

    monkeypatch.setattr(KeycloakAdmin, "write_attributes", write)
    site = site_of(tmp_path, "allow_all = True")
    try:
        done = await sync(site, write_back=True)
        findings = await audit(site, machine=False, folders=False)
    finally:
        await site.close()
    assert written == ["s1", "s2"]
    assert done.problems == ["'carol' is not written back: see qhub-identity audit"]
    wrong = [each.words for each in findings if each.kind == "wrong"]
    assert any("carol" in words and "uidNumber" in words for words in wrong)
    assert any("/odd" in words for words in wrong)


class Root:
    """What is asked of root, and done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[Verb] = []
        self.answer = "done"
        monkeypatch.setattr(archiving, "ensure", self)

    async def __call__(self, _: Any, verbs: Sequence[Verb], **__: Any) -> tuple[Result, ...]:
        self.asked += verbs
        answer: Any = "would" if isinstance(verbs[0], Check) else self.answer
        return tuple(Result(verb, answer, "words") for verb in verbs)


class Left:
    """A site with people and groups of whom some are gone."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.site = site_of(folder, "allow_all = True")
        self.site.folders.command = ["ensure"]
        self.site.folders.home_root = "/home"
        self.store = self.site.identities.store
        self.store.persons([PersonWanted("s1", "alice"), PersonWanted("s9", "gone")])
        wanted = [
            GroupWanted("g1", "/physics"),
            GroupWanted("g8", "/old"),
            GroupWanted("g9", "/old/a"),
        ]
        self.store.groups(wanted)
        self.store.retire("s9")
        for key in ("g8", "g9"):
            self.store.retire_group(key)
        self.back: set[str] = set()
        self.groups: dict[str, GroupRecord] = {}
        self.root = Root(monkeypatch)
        monkeypatch.setattr(KeycloakAdmin, "account", self.account)
        monkeypatch.setattr(KeycloakAdmin, "realm", self.realm)

    async def account(self, sub: str) -> Account | None:
        return Account(sub, sub) if sub in self.back else None

    async def realm(self) -> Realm:
        back = {each: GroupRecord(each, f"/{each}") for each in self.back}
        return Realm(groups=back | self.groups)


@pytest.fixture
def left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Left:
    return Left(tmp_path, monkeypatch)


async def test_a_home_that_is_archived(left: Left) -> None:
    """Asking does nothing; done, it is noted, so that the person gets a new home should they come back."""
    (would,) = await archive_home(left.site, "gone", only_ask=True)
    assert would.result == "would"
    assert left.store.find("s9").home == "/home/gone"
    await archive_home(left.site, "Gone", only_ask=False)
    assert left.root.asked[-1] == Archive("home", "gone", left.store.find("s9").uid)
    assert left.store.find("s9").home == ""
    with pytest.raises(IdentityError, match="archived already"):
        await archive_home(left.site, "gone", only_ask=False)


@pytest.mark.parametrize("answer", ["refused", "failed"])
async def test_what_root_does_not_do_is_not_noted(left: Left, answer: str) -> None:
    """A home or folder that is still in its place stays the person's or group's."""
    left.root.answer = answer
    await archive_home(left.site, "gone", only_ask=False)
    assert left.store.find("s9").home == "/home/gone"
    await archive_folder(left.site, "/old", only_ask=False)
    assert all(each.folder for each in left.store.known_groups(retired=True))


async def test_a_folder_that_is_archived(left: Left) -> None:
    """Just the group's own folder, and it is noted."""
    gids = {each.path: each.gid for each in left.store.known_groups(retired=True)}
    (would,) = await archive_folder(left.site, "/old/a", only_ask=True)
    assert would.verb == Check(Archive("share", "old/a", gids["/old/a"]))
    await archive_folder(left.site, "/old/a", only_ask=False)
    assert left.root.asked[-1] == Archive("share", "old/a", gids["/old/a"])
    folders = {each.path: each.folder for each in left.store.known_groups(retired=True)}
    assert folders == {"/physics": "/physics", "/old": "/old", "/old/a": ""}


@pytest.mark.parametrize(
    ("name", "path", "back", "words"),
    [
        ("alice", "/physics", "", "is not gone"),
        ("nobody", "/nothing", "", "ever had"),
        ("gone", "/old", "s9 g8", "there"),
    ],
)
async def test_who_is_there_is_left_alone(
    left: Left, name: str, path: str, back: str, words: str
) -> None:
    """Only what is noted as gone, and what Keycloak still says is, goes."""
    left.back = set(back.split())
    with pytest.raises(IdentityError, match=words):
        await archive_home(left.site, name, only_ask=False)
    with pytest.raises(IdentityError, match=words):
        await archive_folder(left.site, path, only_ask=False)
    assert not left.root.asked


# What there is of Keycloak's and counts for nothing, and which groups of /old, /old/a are hidden
LOOKS_ALIKE = GroupRecord("g7", "/old/a", name="old/a")
HIDDEN = {
    "another looks like it": (
        [GroupRecord("g9", "/old/a", name="a"), LOOKS_ALIKE],
        "/old/a",
    ),
    "looks like another": ([GroupRecord("g9", "/old/a", name="old/a")], "/old/a"),
    "what nobody sees": ([GroupRecord("g8", "/old\u00a0")], "/old"),
    "too long": ([GroupRecord("g8", "/" + 300 * "x")], "/old"),
}


@pytest.mark.parametrize("case", HIDDEN)
async def test_a_folder_of_a_group_that_counts_for_nothing(left: Left, case: str) -> None:
    """It is there for all that: whoever makes a group that looks like another one has nobody's folder archived."""
    records, path = HIDDEN[case]
    left.groups = {each.id: each for each in records}
    with pytest.raises(IdentityError, match="there again"):
        await archive_folder(left.site, path, only_ask=False)
    assert not left.root.asked


@pytest.mark.parametrize("case", HIDDEN)
async def test_a_group_that_counts_for_nothing_is_not_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """Its number stays in force, and audit says of it that it counts for nothing, and not that there is none."""
    records, path = HIDDEN[case]
    realm = Realm(groups={**REALM.groups, **{each.id: each for each in records}})
    monkeypatch.setattr(f"{__name__}.SNAPSHOT", Snapshot(realm, SNAPSHOT.people))
    site = site_of(tmp_path, "allow_all = True")
    (key,) = {each.id for each in records} - {"g7"}
    site.identities.store.groups([GroupWanted(key, path), GroupWanted("g6", "/gone")])
    try:
        findings = await audit(site, machine=False, folders=False)
        done = await sync(site)
    finally:
        await site.close()
    assert done.gone == ["/gone"]
    (known,) = site.identities.store.known_groups()
    assert known.key == key
    words = {each.subject: each.words for each in findings if "has gid" in each.words}
    assert "counts for nothing now" in words[f"the group {path!r}"]
    assert "does not know it" in words["the group '/gone'"]
