"""Reading accounts and groups that there are already."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qhub_auth.errors import IdentityError
from qhub_auth.numbers.importing import from_group, from_ldif, from_passwd, from_realm, selected
from qhub_auth.numbers.numbering import Ranges
from qhub_auth.numbers.store import GroupWanted, PersonWanted
from qhub_auth.realm import RealmModel, render

PASSWD = """\
root:x:0:0:root:/root:/bin/bash
# a remark
alice:x:5001:5001:Alice Doe,,,:/home/alice:/bin/bash
bob:*:5002:100::/home/bob/:/bin/sh

+::::::
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
"""
GROUP = "root:x:0:\nusers:x:100:\nalice:x:5001:\nphysics:x:7001:alice,bob\n"
# What `ldapsearch -LLL` of OpenLDAP 2.5 prints
LDIF = """\
dn: uid=alice,ou=people,dc=example,dc=org
objectClass: inetOrgPerson
objectClass: posixAccount
uid: alice
cn:: QWxpY2UgRMO2ZQ==
uidNumber: 5001
gidNumber: 5001
homeDirectory: /home/al
 ice
description: a line that is so long that it
  goes on

# physics, groups, example.org
dn: cn=physics,ou=groups,dc=example,dc=org
objectClass: posixGroup
cn: physics
gidNumber: 7001
memberUid: alice

dn: ou=people,dc=example,dc=org
objectClass: organizationalUnit
"""


def test_passwd():
    """People are read with their numbers and homes; remarks, empty lines and those of NIS are passed over."""
    found = from_passwd(PASSWD, "passwd")
    assert found.problems == ()
    assert found.people[1] == PersonWanted("", "alice", 5001, 5001, "/home/alice")
    assert [each.name for each in found.people] == ["root", "alice", "bob", "nobody"]
    assert found.people[2].home == "/home/bob"


def test_what_is_selected():
    """The system's own accounts and groups are left out, and so are the groups that one person has alone."""
    found = selected(from_passwd(PASSWD, "p") + from_group(GROUP, "g"), Ranges())
    assert [each.name for each in found.people] == ["alice", "bob"]
    assert found.people[1].gid == 100
    assert found.groups == (GroupWanted("path:/physics", "/physics", 7001),)
    assert len(found.left_out) == 4
    own = selected(from_passwd(PASSWD, "p"), Ranges(), own_groups=True)
    assert [each.gid for each in own.people] == [None, None]


def test_ldif():
    """Accounts and groups of RFC 2307 are read from LDIF, folded lines and Base64 included."""
    found = from_ldif(LDIF, "ldif")
    assert found.problems == ()
    assert found.people == (PersonWanted("", "alice", 5001, 5001, "/home/alice"),)
    assert found.groups == (GroupWanted("path:/physics", "/physics", 7001),)
    assert from_ldif(LDIF.replace("\n", "\r\n"), "ldif") == found


@pytest.mark.parametrize(
    ("reader", "text", "line"),
    [
        (from_passwd, "alice:x:5001\n", "x, line 1"),
        (from_passwd, "ok:x:1:1::/h:/s\nalice:x:a:5001::/h:/s\n", "x, line 2"),
        (from_passwd, "alice:x:-1:5001::/h:/s\n", "x, line 1"),
        (from_group, "physics:x:seven:\n", "x, line 1"),
        (from_group, ":x:7:\n", "x, line 1"),
        (from_ldif, "dn: a\nuid\n", "x, line 2"),
        (from_ldif, "dn: a\nuid:: %%%\n", "x, line 2"),
        (from_ldif, "\n\ndn: a\nobjectClass: posixAccount\nuid: alice\n", "x, line 3"),
    ],
)
def test_what_is_not_understood_is_named(reader, text, line):
    """A line that is no line is a problem that says where it stands."""
    assert reader(text, "x").problems[0].startswith(line)


def test_a_realm_of_nebari():
    """Of a realm whose people have no numbers names are kept, and those groups that have something; service accounts are not people."""
    realm = {
        "users": [
            {"username": "Alice", "attributes": {"uidNumber": ["5001"], "homeDirectory": ["/h/alice"]}},
            {"username": "bob"},
            {"username": "service-account-hub", "serviceAccountClientId": "hub"},
        ],
        "groups": [
            {"name": "physics", "attributes": {"share": ["rw"]}, "subGroups": [{"name": "a/b", "attributes": {"gidNumber": ["7001"]}}]},
            {"name": "users"},
        ],
    }  # fmt: skip
    found = from_realm(json.dumps(realm), "realm.json")
    assert found.people == (
        PersonWanted("", "alice", 5001, None, "/h/alice"),
        PersonWanted("", "bob"),
    )
    assert [(each.path, each.gid) for each in found.groups] == [
        ("/physics", None),
        ("/physics/a~/b", 7001),
    ]


def test_a_realm_of_our_own():
    """Numbers of groups and people come back from a realm that was rendered, or written back to."""
    model = RealmModel.model_validate(
        {
            "name": "hub",
            "hub": {"secret": "${SECRET}", "url": "https://hub.example.org"},
            "groups": [
                {"name": "physics", "gid": 7001, "share": "rw"},
                {"name": "bio", "gid": 7002},
            ],
            "people": [{"name": "alice", "uid": 5001, "gid": 7001}],
        }
    )
    found = from_realm(json.dumps(render(model)), "realm.json")
    assert {(each.path, each.gid) for each in found.groups} == {("/physics", 7001), ("/bio", 7002)}
    assert [(each.name, each.uid, each.gid) for each in found.people] == [("alice", 5001, 7001)]


@pytest.mark.parametrize(
    "text",
    ["", "[]", "7", "{", '{"users": [{}]}', '{"users": [{"username": 5}]}', '{"groups": [{}]}'],
)
def test_what_is_not_a_realm(text):
    """Another kind of file is an error that names it."""
    with pytest.raises(IdentityError, match=r"realm\.json: expected a realm"):
        from_realm(text, "realm.json")


@given(st.text(st.characters() | st.sampled_from(":\n\r +#-0123456789")))
def test_any_text_is_read(text):
    """Whatever is in a file, reading it ends with people or problems and never with another error."""
    for reader in (from_passwd, from_group, from_ldif):
        reader(text, "x")
    encoded = base64.b64encode(text.encode("utf-8", "replace")).decode()
    from_ldif(f"objectClass: posixAccount\nuid:: {encoded}\n", "x")
