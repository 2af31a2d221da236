"""Who the people of a demo are: numbers, homes and groups, as an authenticator hands them over."""

from __future__ import annotations

import pwd
import secrets
from collections.abc import Mapping
from typing import Any

Identity = dict[str, Any]


def of_account(name: str) -> Identity:
    """Return the identity of a person who has an account on this machine."""
    account = pwd.getpwnam(name)
    return {
        "version": 1,
        "uid": account.pw_uid,
        "gid": account.pw_gid,
        "gids": [account.pw_gid],
        "home": account.pw_dir,
        "groups": [],
    }


def of_member(name: str, number: int, group: str, group_number: int, *, access: str) -> Identity:
    """Return the identity of a person without one, who is a member of a group.

    Args:
        name: Theirs.
        number: Of the person, and of the primary group that is theirs alone.
        group: With a shared folder of that name.
        group_number: Its number.
        access: To the folder: rw or ro.
    """
    folder = {"path": f"/{group}", "name": group, "gid": group_number, "access": access}
    return {
        "version": 1,
        "uid": number,
        "gid": number,
        "gids": [number, group_number],
        "home": f"/home/{name}",
        "groups": [folder],
    }


def identity_lines(identities: Mapping[str, Identity]) -> str:
    """Return the configuration that gives everybody theirs when they log in."""
    return f"""
IDENTITIES = {dict(identities)!r}


def identify(authenticator, handler, authentication):
    authentication["auth_state"] = {{"qhub": IDENTITIES[authentication["name"]]}}
    return authentication


c.Authenticator.post_auth_hook = identify
c.Authenticator.enable_auth_state = True
c.CryptKeeper.keys = [{secrets.token_hex(32)!r}]
"""
