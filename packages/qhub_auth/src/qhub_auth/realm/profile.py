"""What Keycloak keeps of a person, and who may change it. Pure.

Keycloak (24 and later) keeps only attributes that its user profile declares, and lets people edit
those that say so. The numbers and the home decide what files a person can read: an administrator
sets them, never the person.
"""

from __future__ import annotations

import json
from typing import Literal

from qhub_auth.realm.fields import Json

__all__ = ["NUMBERS", "Personal", "profile_component"]

NUMBERS = ("uidNumber", "gidNumber", "homeDirectory")
Personal = Literal["email", "first_name", "last_name"]

_LONGEST = 255
_PERSONAL: dict[Personal, tuple[str, str]] = {
    "email": ("email", "${email}"),
    "first_name": ("firstName", "${firstName}"),
    "last_name": ("lastName", "${lastName}"),
}
_OWN = {"view": ["admin", "user"], "edit": ["admin", "user"]}
_OURS = {"view": ["admin", "user"], "edit": ["admin"]}


def profile_component(required: tuple[Personal, ...]) -> Json:
    """Return the component that declares what there is.

    Args:
        required: What people are asked for when they log in without it.
    """
    config = json.dumps(_declaration(required), separators=(",", ":"))
    return {
        "providerId": "declarative-user-profile",
        "subComponents": {},
        "config": {"kc.user.profile.config": [config]},
    }


def _declaration(required: tuple[Personal, ...]) -> Json:
    attributes: list[Json] = [
        {
            "name": "username",
            "displayName": "${username}",
            "validations": {
                "length": {"min": 1, "max": _LONGEST},
                "username-prohibited-characters": {},
                "up-username-not-idn-homograph": {},
            },
            # a person who renames themselves would take over what belongs to a name
            "permissions": _OURS,
            "multivalued": False,
        }
    ]
    for key, (name, label) in _PERSONAL.items():
        checks: Json = {"length": {"max": _LONGEST}}
        checks |= {"email": {}} if key == "email" else {"person-name-prohibited-characters": {}}
        attribute: Json = {
            "name": name,
            "displayName": label,
            "validations": checks,
            "permissions": _OWN,
            "multivalued": False,
        }
        if key in required:
            attribute["required"] = {"roles": ["user"]}
        attributes.append(attribute)
    return {"attributes": [*attributes, *_numbers()], "groups": [_GROUP]}


_GROUP: Json = {
    "name": "system",
    "displayHeader": "Numbers and home",
    "displayDescription": "Set by administrators",
}


def _numbers() -> list[Json]:
    number: Json = {"integer": {"min": "1", "max": str(2**31 - 1)}}
    path: Json = {
        "length": {"max": _LONGEST},
        "pattern": {"pattern": "^/[^\\x00-\\x1f]*$", "error-message": "an absolute path"},
    }
    declared = zip(NUMBERS, ("uid", "gid", "Home"), (number, number, path), strict=True)
    return [
        {
            "name": name,
            "displayName": label,
            "validations": checks,
            "annotations": {},
            "permissions": _OURS,
            "group": "system",
            "multivalued": False,
        }
        for name, label, checks in declared
    ]
