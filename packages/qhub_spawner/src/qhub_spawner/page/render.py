"""The options page: a fragment for the form on the hub's own spawn page.

The page is whole without scripts; `static/page.js` keeps it live. Style and script stand in the
fragment itself, as the hub serves static files only from one folder of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache, lru_cache
from importlib import resources
from itertools import chain
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup

from qhub_spawner.errors import shown
from qhub_spawner.page.forms import OTHER, parse_form, parse_query

__all__ = ["parse_form", "parse_query", "render_form"]

INTERVAL_SECONDS = 15
"""How often an open page asks for new figures. The hub answers from its cache."""

SEARCH_FROM = 13
"""So many profiles get a search field: fewer are read faster than searched."""

_KEPT_CARDS = 2048


def render_form(
    model: Mapping[str, Any],
    *,
    preselect: dict[str, Any] | None,
    api_url: str,
    error: str | None = None,
    notice: str | None = None,
) -> str:
    """Render what stands inside the hub's ``<form id="spawn_form">``, without its Start button.

    Args:
        model: As `qhub_spawner.page.model.profiles_model` makes it.
        preselect: What an address or a refused form asks for; what of it this person may not have
            is said on the page. Without it the last choice is shown, as far as it still exists,
            else the default profile.
        api_url: Where the page fetches the model anew.
        error: Something that went wrong, in words.
        notice: Something else to know, in words.

    Returns:
        HTML; everything in it that came from outside is escaped.
    """
    profiles = {profile["slug"]: profile for profile in model["profiles"]}
    alerts = [error] if error else []
    if preselect is not None:
        alerts += _misfits(preselect, profiles)
    chosen = preselect or model["last"]
    checked = _checked(profiles, chosen)
    options = {}
    if chosen and chosen["profile"] == checked:
        known = profiles[checked]["options"]
        options = {name: value for name, value in chosen["options"].items() if name in known}
    # A backend that has nothing to say now has nothing to say later.
    live = any(profile["availability"]["words"]["headline"] for profile in profiles.values())
    return _template("form.html.j2").render(
        css=_static("page.css"),
        js=_static("page.js"),
        alerts=alerts,
        notice=notice,
        nothing=checked is None,
        user=model["user"],
        as_of=model["as_of"],
        as_of_clock=model["words"]["as_of"],
        searchable=len(profiles) >= SEARCH_FROM,
        cards=[
            _card(profile, options if slug == checked else None)
            for slug, profile in profiles.items()
        ],
        setup={"api_url": api_url, "interval_seconds": INTERVAL_SECONDS, "live": live},
    )


# --- what is chosen when the page opens


def _checked(profiles: Mapping[str, Any], chosen: dict[str, Any] | None) -> str | None:
    """Return the chosen profile: as asked, else the default, else the first that can be started."""
    free: list[str] = [slug for slug, profile in profiles.items() if not profile["blocked"]]
    asked = (slug for slug in free if chosen and chosen["profile"] == slug)
    default = (slug for slug in free if profiles[slug]["default"])
    return next(chain(asked, default, free), None)


def _misfits(preselect: Mapping[str, Any], profiles: Mapping[str, Any]) -> list[str]:
    """Say what of a preselection cannot be shown as chosen."""
    slug = preselect["profile"]
    profile = profiles.get(slug)
    if profile is None:
        free = ", ".join(name for name, other in profiles.items() if not other["blocked"])
        accepted = f" You may choose: {free}." if free else ""
        return [f"There is no profile {shown(slug)} for you.{accepted}"]
    if profile["blocked"]:
        return [f"The profile {shown(slug)} is not available to you: {profile['blocked']}."]
    misfits = (
        _misfit(slug, profile["options"], name, value)
        for name, value in preselect["options"].items()
    )
    return [misfit for misfit in misfits if misfit]


def _misfit(slug: str, options: Mapping[str, Any], name: str, value: str) -> str | None:
    if name not in options:
        return (
            f"The profile {slug} has no option {shown(name)} for you. "
            f"Its options: {', '.join(options) or 'none'}."
        )
    choices = [choice["slug"] for choice in options[name]["choices"]]
    if value in choices or options[name]["free"]:
        return None
    return (
        f"The option {name} has no choice {shown(value)} for you. "
        f"Its choices: {', '.join(choices)}."
    )


def _picked(option: Mapping[str, Any], value: str | None) -> dict[str, Any]:
    """Return the choice and the free text of one option; `value` was chosen before, if any was."""
    for wanted in (value, option["default"]):
        if wanted is None:
            continue
        if any(choice["slug"] == wanted for choice in option["choices"]):
            return {"slug": wanted, "text": ""}
        if option["free"]:
            return {"slug": OTHER, "text": wanted}
    first = next((choice["slug"] for choice in option["choices"]), OTHER)
    return {"slug": first, "text": ""}


def _facts(profile: Mapping[str, Any], picked: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Say what a server costs with these options, applied in their order; page.js does the same."""
    facts = {name: words for name, words in profile["words"].items() if name != "where"}
    for slug, option in profile["options"].items():
        pick = picked[slug]
        for choice in option["choices"]:
            if choice["slug"] == pick["slug"]:
                facts.update(choice["words"]["facts"])
        if pick["text"] and option["free"]["words"]["fact"]:
            words = option["free"]["words"]
            facts[words["fact"]] = words["says"].replace("{}", pick["text"])
    return facts


# --- cards. Most people are shown the same ones, so the parts of a card are rendered once for all
# of them, and found again by what they say.


def _card(profile: Mapping[str, Any], options: Mapping[str, str] | None) -> dict[str, Any]:
    """Render one card.

    Args:
        profile: Of the model.
        options: What is chosen, where this is the chosen profile.
    """
    fixed = {key: value for key, value in profile.items() if key != "availability"}
    # When it was read changes all the time; a card says it only of what is old, in the words.
    moving = {key: value for key, value in profile["availability"].items() if key != "as_of"}
    checked = options is not None
    what, options_html = _fixed_parts(
        json.dumps(fixed), checked, tuple(options.items()) if options else ()
    )
    return {
        "slug": profile["slug"],
        "blocked": profile["blocked"],
        "what": what,
        "live": _live_part(profile["slug"], json.dumps(moving)),
        "options": options_html,
    }


@lru_cache(maxsize=_KEPT_CARDS)
def _fixed_parts(
    profile_json: str, checked: bool, options: tuple[tuple[str, str], ...]
) -> tuple[Markup, Markup]:
    profile = json.loads(profile_json)
    before = dict(options)
    picked = {
        slug: _picked(option, before.get(slug)) for slug, option in profile["options"].items()
    }
    facts = _facts(profile, picked)
    said = (
        profile["slug"],
        profile["display_name"],
        profile["description"],
        profile["words"]["where"],
    )
    # "no GPU" is not an answer to a search for "gpu".
    search = " ".join(
        [*said, *(words for words in facts.values() if not words.startswith("no "))]
    ).lower()
    what = _render("what.html.j2", profile=profile, checked=checked, facts=facts, search=search)
    if profile["blocked"] or not profile["options"]:
        return what, Markup()
    return what, _render("options.html.j2", profile=profile, picked=picked)


@lru_cache(maxsize=_KEPT_CARDS)
def _live_part(slug: str, availability_json: str) -> Markup:
    return _render("live.html.j2", slug=slug, **json.loads(availability_json))


def _render(name: str, **values: object) -> Markup:
    return Markup(_template(name).render(values))  # nosec B704 # noqa: S704 - the output of an escaping template


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("qhub_spawner.page"),
        autoescape=True,
        undefined=StrictUndefined,
        auto_reload=False,
        trim_blocks=True,
    )


@cache
def _template(name: str) -> Template:
    return _environment().get_template(name)


@cache
def _static(name: str) -> Markup:
    text = resources.files("qhub_spawner.page").joinpath("static", name).read_text(encoding="utf-8")
    return Markup(text)  # nosec B704 # noqa: S704 - a file of this package
