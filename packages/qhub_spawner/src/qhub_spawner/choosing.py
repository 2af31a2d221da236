"""What a person chooses from, and what they get for it: the options page, and the one decision."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from jupyterhub.spawner import SpawnException
from jupyterhub.utils import url_path_join

from qhub_spawner import page
from qhub_spawner.access import Selection
from qhub_spawner.errors import ConfigurationError, SelectionError

if TYPE_CHECKING:
    from qhub_spawner.spawner import QHubSpawner


async def decide(spawner: QHubSpawner, user_options: object) -> Selection:
    """Return what a person gets for `user_options`.

    Raises:
        SpawnException: A 4xx that names what is wrong and what this person may have.
    """
    person = spawner.person
    try:
        return await spawner.runtime.select(spawner, person, person.name, user_options)
    except SelectionError as error:
        raise refused(error) from error
    except ConfigurationError as error:
        raise _unusable(spawner, error) from error


async def options_model(spawner: QHubSpawner) -> dict[str, Any]:
    """Return what the options page shows, as JSON.

    Raises:
        SpawnException: The profiles are not usable now.
    """
    runtime, name = spawner.runtime, spawner.person.name
    try:
        offers = await runtime.offers(spawner, spawner.person, name)
        availability = await runtime.availability(spawner, offers, name)
    except ConfigurationError as error:
        raise _unusable(spawner, error) from error
    last = spawner.orm_spawner.user_options if spawner.orm_spawner else None
    model = page.profiles_model(
        offers,
        availability,
        person_name=name,
        last=last,
        now=datetime.now().astimezone(),
    )
    return {
        **model,
        "last_ended": spawner.last_ended or None,
        "last_failed": spawner.last_failed or None,
    }


async def form(spawner: QHubSpawner) -> str:
    """Render the list of profiles."""
    model = await spawner.options_model()
    arguments = spawner.handler.request.query_arguments if spawner.handler else {}
    preselect, problem = page.parse_query(arguments)
    escaped = spawner.user.escaped_name
    url = url_path_join(spawner.hub.base_url, "api/users", escaped, "qhub/profiles")
    notice = last_words(spawner)
    attempted, spawner.attempted = spawner.attempted, None
    if attempted:
        model, preselect, problem = {**model, "last": attempted}, None, None
    if attempted or spawner.handler is None:
        notice = None  # this page answers a start that failed: the hub says why, beside this
    return page.render_form(model, preselect=preselect, api_url=url, error=problem, notice=notice)


def last_words(spawner: QHubSpawner) -> str | None:
    """Return what became of the last server, if its person did not end it."""
    if spawner.last_ended:
        return f"Your last server ended: {spawner.last_ended}."
    return f"Your last start failed. {spawner.last_failed}" if spawner.last_failed else None


def _unusable(spawner: QHubSpawner, error: ConfigurationError) -> SpawnException:
    spawner.log.error("the profiles are not usable:\n%s", error)
    msg = "The profiles of this hub are not usable now; its administrator can see why."
    return said(msg, reason="configuration", status_code=503)


def refused(error: SelectionError) -> SpawnException:
    """Return the 4xx that names what is wrong and what this person may have."""
    return said(str(error), reason="selection", status_code=error.status_code)


def said(words: str, *, reason: str, status_code: int) -> SpawnException:
    """Return an exception that the hub shows to people as `words`, without its class and code."""
    error = SpawnException(words, reason=reason, status_code=status_code)
    error.jupyterhub_message = words
    return error
