"""What tests of hostile input share: the list, who sends it, and what an answer must be."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from demo.visitor import Visitor
from tests.systems.hub import Answer, HubSystem
from tests.unit import hostile

T = TypeVar("T")
SECONDS = 20.0  # a machine may be busy; a payload that costs time costs more than that
OPTIONS = {
    "size": {
        "display_name": "Size",
        "choices": {
            "small": {"display_name": "Small", "default": True, "overrides": {"cpu": 1}},
            "large": {"display_name": "Large", "overrides": {"cpu": 2}},
        },
    },
    "memory": {
        "display_name": "Memory",
        "default": "50 MiB",
        "free": {"pattern": ".*", "message": "a size", "sets": "memory", "maximum": "1 GiB"},
    },
    "walltime": {
        "display_name": "Walltime",
        "default": "10m",
        "free": {"pattern": ".*", "message": "a time", "sets": "walltime", "maximum": "1h"},
    },
}
TEXTS = {**hostile.TEXTS, "ten megabytes": hostile.ten_megabytes()}
SHORT = {what: text for what, text in hostile.TEXTS.items() if len(text) < 1000}


def traces() -> list[Path]:
    """Return what a payload that ran would have left."""
    return list(Path("/tmp").glob(f"{hostile.MARK}*"))


class Answers:
    """What a hub answered to one hostile thing after the other."""

    def __init__(self, hub: HubSystem) -> None:
        """Nothing was sent yet."""
        self.hub = hub
        self.wrong: dict[str, Any] = {}

    def take(self, what: str, send: Callable[[], Answer], *also: int) -> Answer:
        """Keep what is neither a 4xx that says why, nor one of `also`, or what came late."""
        began = time.monotonic()
        answer = send()
        seconds = time.monotonic() - began
        clear = 400 <= answer.status < 500 and answer.text.strip()
        if not (clear or answer.status in also) or seconds > SECONDS:
            self.wrong[what] = (answer.status, round(seconds, 2), answer.text[-300:])
        return answer

    def ask(self, what: str, method: str, path: str, *also: int, **body: Any) -> Answer:
        """Ask the API."""
        return self.take(what, lambda: self.hub.api(method, path, **body), *also)

    def check(self) -> None:
        """Everything was answered well, nothing ran, nothing started, and the hub goes on."""
        assert self.wrong == {}
        assert traces() == []
        model = self.hub.api("GET", "users/alice?include_stopped_servers=1")
        assert model.status == 200
        going = [name for name, each in model.json["servers"].items() if not each.get("stopped")]
        assert going == []
        offered = self.hub.api("GET", "users/alice/qhub/profiles").json["profiles"]
        assert [profile["slug"] for profile in offered] == ["lab"]


def bodies(text: str) -> dict[str, Any]:
    """Return a hostile text in each place of ``user_options`` that may hold one."""
    return {
        "as profile": {"profile": text},
        "as choice": {"profile": "lab", "options": {"size": text}},
        "as memory": {"profile": "lab", "options": {"memory": text}},
        "as walltime": {"profile": "lab", "options": {"walltime": text}},
        "as option": {"profile": "lab", "options": {text: "small"}},
        "as field": {"profile": "lab", text: "x"},
        "inside": {"user_options": {"profile": text}, "display_name": text},
    }


def two_of(places: dict[str, T], number: int) -> dict[str, T]:
    """Return two of the places for one text, other two for the next; unit tests try them all."""
    names = list(places)
    return {
        name: places[name] for name in (names[number % len(names)], names[number // 2 % len(names)])
    }


def is_json(value: object) -> bool:
    """Whether a value can be sent at all."""
    try:
        text = json.dumps(value)
    except (TypeError, ValueError, RecursionError):
        return False
    return bool(text)


def quoted(text: str) -> str:
    """Return a text as one part of an address."""
    return quote(text, safe="", errors="surrogatepass")


class Browser:
    """Somebody logged in at the real page, who sends what no page would."""

    def __init__(self, hub: HubSystem, user: str) -> None:
        """Log in."""
        self.visitor = Visitor()
        page = self.visitor.open(hub.url)
        page = self.visitor.submit(page.form("/hub/login"), username=user, password="")
        self.form = page.form("spawn_form")
        self.url = self.form.action.partition("?")[0]

    def send(self, path: str, data: bytes | None, kind: str) -> Answer:
        """Ask for a page, or post to it; every status is an answer."""
        headers = {"Content-Type": kind} if data is not None else {}
        request = urllib.request.Request(path, data=data, headers=headers)
        try:
            with self.visitor._opener.open(request, timeout=60) as answer:
                return Answer(answer.status, answer.read().decode())
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.read().decode())

    def post(self, fields: list[tuple[str, str]], *, multipart: bool = False) -> Answer:
        """Submit fields; the XSRF token stands in the form's address."""
        if not multipart:
            data = urlencode(fields, errors="surrogatepass").encode()
            return self.send(self.form.action, data, "application/x-www-form-urlencoded")
        parts = [
            f'--hostile\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in fields
        ]
        data = "".join([*parts, "--hostile--\r\n"]).encode(errors="surrogatepass")
        return self.send(self.form.action, data, "multipart/form-data; boundary=hostile")
