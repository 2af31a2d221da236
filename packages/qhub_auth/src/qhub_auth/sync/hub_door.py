"""The sync service's way to the hub: the list of users, and batches of what is new."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from qhub_auth.errors import ConfigurationError, QHubAuthError, shown
from qhub_auth.sync.bodies import PATH, Batch, Entry, Page, Results
from qhub_auth.sync.reconciling import HubUser

__all__ = ["HubDoor", "HubRefusedError", "HubUnavailableError"]

# A batch may wait for the hub's own slow moments, and for servers that are being stopped.
_SECONDS, _CONNECT_SECONDS = 120.0, 10.0
_PAGE = 500
_Model = TypeVar("_Model", bound=BaseModel)


class HubUnavailableError(QHubAuthError):
    """The hub gave no usable answer: it is asked again later."""


class HubRefusedError(QHubAuthError):
    """The hub said no; asking again does not help."""


class HubDoor:
    """Calls to ``/hub/api/qhub/sync``. Every call may be done again: it sets, it does not add.

    Args:
        url: Of the hub's API, e.g. ``http://127.0.0.1:8081/hub/api``.
        token: With the scope ``custom:qhub-auth:sync``.
        http: Connections to use.

    Attributes:
        calls: Requests made so far.
        instance: Which start of the hub answered last; empty before the first answer.
    """

    def __init__(self, url: str, token: str, http: httpx.AsyncClient | None = None) -> None:
        if not url or not token:
            raise ConfigurationError(
                "where the hub is: the hub says so to a service that it starts; otherwise set "
                "c.GroupSync.hub_url and c.GroupSync.hub_token_file"
            )
        self.calls = 0
        self.instance = ""
        self._address = f"{url.rstrip('/')}/{PATH}"
        self._headers = {"Authorization": f"token {token}"}
        timeout = httpx.Timeout(_SECONDS, connect=_CONNECT_SECONDS)
        self._http = http or httpx.AsyncClient(timeout=timeout, trust_env=False)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def hello(self) -> None:
        """See whether the hub is there, and whether it was started anew.

        Raises:
            HubUnavailableError: No usable answer came.
            HubRefusedError: The token is not good for it.
        """
        page = await self._call(Page, "GET", params={"after": "\U0010ffff", "limit": "1"})
        self.instance = page.instance

    async def users(self) -> AsyncIterator[list[HubUser]]:
        """Yield all users of the hub, page by page, by name.

        Raises:
            HubUnavailableError: No usable answer came.
            HubRefusedError: The token is not good for it.
        """
        after: str | None = ""
        while after is not None:
            page = await self._call(Page, "GET", params={"after": after, "limit": str(_PAGE)})
            self.instance = page.instance
            yield [
                HubUser(
                    name=each.name,
                    sub=each.sub,
                    admin=each.admin,
                    groups=frozenset(each.groups),
                    roles=frozenset(each.roles),
                    digest=each.digest,
                )
                for each in page.users
            ]
            after = page.after

    async def send(
        self, entries: Sequence[Entry], *, directory: str, dry_run: bool = False
    ) -> Results:
        """Tell the hub what Keycloak says of some people.

        Args:
            entries: At most :data:`sync_bodies.LARGEST_BATCH`.
            directory: Stands for groups and roles as they are.
            dry_run: Only ask what would be.

        Raises:
            HubUnavailableError: No usable answer came.
            HubRefusedError: The token is not good for it, or the hub cannot read the batch.
        """
        batch = Batch(directory=directory, dry_run=dry_run, people=tuple(entries))
        results = await self._call(
            Results,
            "POST",
            content=batch.model_dump_json(),
            headers={"Content-Type": "application/json"},
        )
        self.instance = results.instance
        return results

    async def _call(
        self,
        model: type[_Model],
        method: str,
        *,
        params: dict[str, str] | None = None,
        content: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> _Model:
        self.calls += 1
        try:
            answer = await self._http.request(
                method,
                self._address,
                params=params,
                content=content,
                headers={**self._headers, **(headers or {})},
            )
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise HubUnavailableError(
                f"the hub at {self._address} does not answer: {type(error).__name__}"
            ) from error
        if answer.is_success:
            try:
                return model.model_validate_json(answer.content)
            except ValidationError as error:
                raise HubUnavailableError(
                    f"the hub's answer on {method} {self._address} is not what was expected: "
                    f"{error.error_count()} problems in {len(answer.content)} bytes"
                ) from error
        said = _message(answer)
        text = f"the hub answers {answer.status_code} on {method} {self._address}: {said}"
        if answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
            raise HubUnavailableError(text)
        if answer.status_code in {httpx.codes.NOT_FOUND, httpx.codes.REQUEST_TIMEOUT}:
            # A proxy that does not know the hub yet answers so while it starts.
            raise HubUnavailableError(text)
        if answer.status_code in {httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN}:
            text += (
                "; the service needs the scope custom:qhub-auth:sync: see "
                "qhub_auth.configure.group_sync"
            )
        raise HubRefusedError(text)


def _message(answer: httpx.Response) -> str:
    try:
        data = answer.json()
        return shown(str(data["message"]), 200)
    except (ValueError, KeyError, TypeError):
        return f"{len(answer.content)} bytes"
