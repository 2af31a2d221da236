"""What an administrator does to a realm, by names and paths rather than identifiers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal
from urllib.parse import quote

from qhub_auth.paths import split
from qhub_auth.realm import RealmModel
from qhub_auth.realm.clients import client_of

from .admin import Admin

Attributes = Mapping[str, Sequence[str]]


class RealmAdmin:
    """One realm's administrator.

    Args:
        admin: The admin API.
        realm: The realm's name.
        client_id: The client whose roles are meant.
    """

    def __init__(self, admin: Admin, realm: str, client_id: str) -> None:
        self.api = admin
        self.path = f"/admin/realms/{realm}"
        self._client_id = client_id

    # ---- people

    def person(self, name: str) -> dict[str, Any]:
        """A person's representation.

        Raises:
            KeyError: There is none of that name.
        """
        found = self.api.get(f"{self.path}/users", username=name, exact="true")
        if not found:
            raise KeyError(name)
        # this one alone has everything, attributes included
        person: dict[str, Any] = self.api.get(f"{self.path}/users/{found[0]['id']}")
        return person

    def sub(self, name: str) -> str:
        """A person's identifier."""
        return str(self.person(name)["id"])

    def add_person(
        self,
        name: str,
        password: str = "",
        groups: Sequence[str] = (),
        attributes: Attributes | None = None,
        **more: object,
    ) -> str:
        """Add a person; returns their identifier."""
        body: dict[str, object] = {
            "username": name,
            "enabled": True,
            "attributes": {key: list(values) for key, values in (attributes or {}).items()},
            "groups": list(groups),
            **more,
        }
        if password:
            body["credentials"] = [{"type": "password", "value": password, "temporary": False}]
        return self.api.post(f"{self.path}/users", body)

    def update_person(self, name: str, **fields: object) -> None:
        """Change fields of a person (``enabled``, ``username``, ``attributes``, …)."""
        person = self.person(name)
        self.api.put(f"{self.path}/users/{person['id']}", {**person, **fields})

    def disable(self, name: str) -> None:
        """Let a person in no longer."""
        self.update_person(name, enabled=False)

    def enable(self, name: str) -> None:
        """Let them in again."""
        self.update_person(name, enabled=True)

    def rename(self, name: str, new: str) -> None:
        """Give a person another user name."""
        self.update_person(name, username=new)

    def delete(self, name: str) -> None:
        """Remove a person."""
        self.api.delete(f"{self.path}/users/{self.sub(name)}")

    def set_password(self, name: str, password: str) -> None:
        """Give a person a password."""
        body = {"type": "password", "value": password, "temporary": False}
        self.api.put(f"{self.path}/users/{self.sub(name)}/reset-password", body)

    # ---- groups

    def group(self, path: str) -> dict[str, Any]:
        """A group's representation, by its full path."""
        parts = [quote(part, safe="") for part in split(path)]
        group: dict[str, Any] = self.api.get(f"{self.path}/group-by-path/{'/'.join(parts)}")
        # that one may lack attributes
        full: dict[str, Any] = self.api.get(f"{self.path}/groups/{group['id']}")
        return full

    def group_id(self, path: str) -> str:
        """A group's identifier."""
        return str(self.group(path)["id"])

    def groups_of(self, name: str) -> set[str]:
        """The paths of the groups that a person is in directly."""
        sub = self.sub(name)
        return {each["path"] for each in self.api.get(f"{self.path}/users/{sub}/groups", max=1000)}

    def add_member(self, name: str, path: str) -> None:
        """Put a person into a group."""
        self.api.put(f"{self.path}/users/{self.sub(name)}/groups/{self.group_id(path)}")

    def remove_member(self, name: str, path: str) -> None:
        """Take a person out of a group."""
        self.api.delete(f"{self.path}/users/{self.sub(name)}/groups/{self.group_id(path)}")

    def add_group(
        self,
        path: str,
        share: Literal["rw", "ro"] | None = None,
        gid: int | None = None,
        attributes: Attributes | None = None,
    ) -> str:
        """Add a group below one that is there; returns its identifier."""
        given = {key: list(values) for key, values in (attributes or {}).items()}
        if share:
            given["share"] = [share]
        if gid is not None:
            given["gid"] = [str(gid)]
        *above, name = split(path)
        body = {"name": name, "attributes": given}
        if not above:
            return self.api.post(f"{self.path}/groups", body)
        parent = self.group_id("".join("/" + part.replace("/", "~/") for part in above))
        return self.api.post(f"{self.path}/groups/{parent}/children", body)

    def update_group(self, path: str, attributes: Attributes) -> None:
        """Give a group these attributes and no others."""
        group = self.group(path)
        given = {key: list(values) for key, values in attributes.items()}
        self.api.put(f"{self.path}/groups/{group['id']}", {**group, "attributes": given})

    def rename_group(self, path: str, name: str) -> None:
        """Give a group another name, in the same place."""
        group = self.group(path)
        self.api.put(f"{self.path}/groups/{group['id']}", {**group, "name": name})

    def move_group(self, path: str, new_parent: str | None) -> None:
        """Put a group below another, or at the top."""
        group = self.group(path)
        target = f"{self.path}/groups"
        if new_parent:
            target += f"/{self.group_id(new_parent)}/children"
        self.api.post(target, {"id": group["id"], "name": group["name"]})

    def delete_group(self, path: str) -> None:
        """Remove a group and all below it."""
        self.api.delete(f"{self.path}/groups/{self.group_id(path)}")

    # ---- roles of the hub's client

    def client(self, client_id: str | None = None) -> dict[str, Any]:
        """A client's representation; the hub's by default."""
        wanted = client_id or self._client_id
        found = self.api.get(f"{self.path}/clients", clientId=wanted)
        if not found:
            raise KeyError(wanted)
        client: dict[str, Any] = found[0]
        return client

    def role(self, name: str) -> dict[str, Any]:
        """A role's representation."""
        role: dict[str, Any] = self.api.get(
            f"{self.path}/clients/{self.client()['id']}/roles/{quote(name, safe='')}"
        )
        return role

    def add_role(self, name: str, scopes: Sequence[str] = (), **more: object) -> None:
        """Add a role."""
        attributes = {"scopes": list(scopes)} if scopes else {}
        body = {"name": name, "attributes": attributes, **more}
        self.api.post(f"{self.path}/clients/{self.client()['id']}/roles", body)

    def update_role(self, name: str, **fields: object) -> None:
        """Change fields of a role."""
        role = self.role(name)
        self.api.put(f"{self.path}/roles-by-id/{role['id']}", {**role, **fields})

    def delete_role(self, name: str) -> None:
        """Remove a role."""
        self.api.delete(f"{self.path}/roles-by-id/{self.role(name)['id']}")

    def _mapped(self, holder: str) -> str:
        return f"{self.path}/{holder}/role-mappings/clients/{self.client()['id']}"

    def give_role(self, name: str, role: str) -> None:
        """Give a person a role."""
        self.api.post(self._mapped(f"users/{self.sub(name)}"), [self.role(role)])

    def take_role(self, name: str, role: str) -> None:
        """Take a role from a person."""
        self.api.delete(self._mapped(f"users/{self.sub(name)}"), [self.role(role)])

    def give_group_role(self, path: str, role: str) -> None:
        """Give all members of a group a role."""
        self.api.post(self._mapped(f"groups/{self.group_id(path)}"), [self.role(role)])

    def take_group_role(self, path: str, role: str) -> None:
        """Take a role from a group."""
        self.api.delete(self._mapped(f"groups/{self.group_id(path)}"), [self.role(role)])

    # ---- sessions, keys, settings

    def sessions(self, name: str) -> list[dict[str, Any]]:
        """A person's sessions."""
        found: list[dict[str, Any]] = self.api.get(f"{self.path}/users/{self.sub(name)}/sessions")
        return found

    def session_ids(self, name: str) -> set[str]:
        """The ids of a person's sessions: other tests may have left some."""
        return {each["id"] for each in self.sessions(name)}

    def log_out(self, name: str) -> None:
        """End all sessions of a person; clients are told by the back channel."""
        self.api.post(f"{self.path}/users/{self.sub(name)}/logout")

    def end_session(self, session: str) -> None:
        """End one session."""
        self.api.delete(f"{self.path}/sessions/{session}")

    def rotate_keys(self, *, drop_old: bool = False) -> str:
        """Sign with a new RSA key from now on; returns its id (``kid``).

        Args:
            drop_old: Whether what the old ones signed is to be taken no longer.
        """
        kind = "org.keycloak.keys.KeyProvider"
        realm_id = self.settings()["id"]
        found = self.api.get(f"{self.path}/components", parent=realm_id, type=kind)
        old = [each for each in found if each["providerId"] == "rsa-generated"]
        highest = max(int(each["config"].get("priority", ["0"])[0]) for each in found)
        config = {"priority": [str(highest + 100)], "enabled": ["true"], "active": ["true"],
                  "algorithm": ["RS256"], "keySize": ["2048"]}  # fmt: skip
        body = {"name": f"rsa-{highest + 100}", "providerId": "rsa-generated",
                "providerType": kind, "parentId": realm_id, "config": config}  # fmt: skip
        self.api.post(f"{self.path}/components", body)
        if drop_old:
            for each in old:
                self.api.delete(f"{self.path}/components/{each['id']}")
        return str(self.api.get(f"{self.path}/keys")["active"]["RS256"])

    def settings(self) -> dict[str, Any]:
        """The realm's representation, without what is in it."""
        settings: dict[str, Any] = self.api.get(self.path)
        return settings

    def update(self, **fields: object) -> None:
        """Change settings of the realm, e.g. ``revokeRefreshToken=True``."""
        self.api.put(self.path, {"realm": self.path.rpartition("/")[2], **fields})

    def update_client(self, client_id: str | None = None, **fields: object) -> None:
        """Change fields of a client; the hub's by default. `attributes` are added to."""
        client = self.client(client_id)
        attributes = {**client["attributes"], **dict(fields.pop("attributes", {}))}  # type: ignore[call-overload]
        body = {**client, **fields, "attributes": attributes}
        self.api.put(f"{self.path}/clients/{client['id']}", body)

    def update_hub(self, model: RealmModel) -> None:
        """Give the hub's client the addresses of a model."""
        wanted = client_of(model.hub, model.hub)
        names = ("redirectUris", "webOrigins", "baseUrl", "attributes")
        self.update_client(model.hub.client_id, **{name: wanted[name] for name in names})

    def events(self, **query: str | int) -> list[dict[str, Any]]:
        """Admin events, the newest first."""
        found: list[dict[str, Any]] = self.api.get(f"{self.path}/admin-events", **query)
        return found

    def export(self) -> dict[str, Any]:
        """What Keycloak has of the realm: all but people, with stars for secrets."""
        query = {"exportClients": "true", "exportGroupsAndRoles": "true"}
        answer = self.api.call("POST", f"{self.path}/partial-export", params=query)
        realm: dict[str, Any] = answer.json()
        return realm
