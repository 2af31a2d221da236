"""Why the API server has refused to create a pod, in words for a person.

The answers are ``Status`` objects (API reference v1.34, ``metav1.Status``). Their messages may
repeat values of the manifest that was sent: those of an invalid pod are never passed on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from qhub_spawner.errors import ValueRefusedError
from qhub_spawner.kubernetes.amounts import (
    CPU,
    PODS,
    amount_words,
    left_words,
    parse_bytes,
    parse_millicores,
)
from qhub_spawner.kubernetes.documents import integer, items, mapping, said, text

__all__ = ["quota_words", "refusal_words"]

# pods "jupyter-ada" is forbidden: exceeded quota: people, requested: limits.memory=4Gi,pods=1,
# used: limits.memory=14Gi,pods=3, limited: limits.memory=16Gi,pods=3
_QUOTA = re.compile(
    r"exceeded quota: (?P<name>[^,\s]{1,253}), requested: (?P<asked>\S*), used: (?P<used>\S*), "
    r"limited: (?P<limit>\S*)"
)


def quota_words(status: Mapping[str, Any]) -> str:
    """Return what the namespace's quota lacks for a pod, a phrase; empty for another refusal.

    Args:
        status: The API server's answer, 403.
    """
    message = text(status, "message")
    found = _QUOTA.search(message)
    if found is None:
        return "the namespace's quota has no room" if "exceeded quota" in message else ""
    asked, used, limit = (_listed(found[part]) for part in ("asked", "used", "limit"))
    words: list[str] = []
    for key in asked:
        name = key.removeprefix("requests.").removeprefix("limits.").removeprefix("count/")
        numbers = [_amount(name, each.get(key, "")) for each in (asked, used, limit)]
        if None in numbers:
            continue
        wanted, taken, most = (number or 0 for number in numbers)
        if name == PODS:
            allowed = f"{amount_words(PODS, most)}, and no more" if most else "no pods"
            return f"the namespace's quota allows {allowed}"
        left = left_words(name, most - taken)
        total = left_words(name, most)
        sentence = f"{amount_words(name, wanted)} asked for, {left} of {total} left"
        if sentence not in words:
            words.append(sentence)
    return f"the namespace's quota has no room: {'; '.join(words) or said(message)}"


def _listed(amounts: str) -> dict[str, str]:
    pairs = (pair.partition("=") for pair in amounts[:1024].rstrip(",").split(","))
    return {key: value for key, _, value in pairs if key}


def _amount(name: str, value: str) -> int | None:
    try:
        return parse_millicores(value) if name == CPU else parse_bytes(value)
    except ValueRefusedError:
        return None


def _part(found: re.Match[str], name: str) -> str:
    return said(found[name] or "", 120)


def _pod_security(found: re.Match[str]) -> str:
    # allowPrivilegeEscalation != false (container "notebook" must set …=false), seccompProfile (…)
    rules = re.sub(r" ?\((?:[^()]|\([^()]*\))*\)", "", found["rules"][:2048])
    level = _part(found, "level").partition(":")[0]
    return f"the pod breaks the namespace's rule {level} (Pod Security): {said(rules, 160)}"


def _webhook(found: re.Match[str]) -> str:
    why = _part(found, "why")
    rule = f"a rule of the cluster ({_part(found, 'name')}) forbids it"
    return f"{rule}: {why}" if why else rule


def _limit_range(found: re.Match[str]) -> str:
    bound = f"{_part(found, 'bound')} of {_part(found, 'what')} for each {found['each'].lower()}"
    end = "most" if found["end"] == "maximum" else "least"
    asked = f", not {_part(found, 'asked')}" if found["asked"] else ""
    return f"the namespace allows at {end} {bound}{asked}"


# The first that is found in the message decides.
_FORMS: Sequence[tuple[str, Callable[[re.Match[str]], str]]] = (
    (r'violates PodSecurity "(?P<level>[^"]*)": (?P<rules>.*)', _pod_security),
    (r'admission webhook "(?P<name>[^"]*)" denied the request(?:: (?P<why>.*))?', _webhook),
    (r"ValidatingAdmissionPolicy '(?P<name>[^']*)' .*?denied request: (?P<why>.*)", _webhook),
    (
        r'failed calling webhook "(?P<name>[^"]*)"',
        lambda found: f"a rule of the cluster ({_part(found, 'name')}) does not answer",
    ),
    (
        r"no PriorityClass with name (?P<name>\S+) was found",
        lambda found: f"the cluster has no priority class {_part(found, 'name')}",
    ),
    (
        r'RuntimeClass "?(?P<name>[\w.-]+)"? not found',
        lambda found: f"the cluster has no runtime class {_part(found, 'name')}",
    ),
    (
        r'serviceaccount "(?P<name>[^"]*)" not found',
        lambda found: f"the namespace has no service account {_part(found, 'name')}",
    ),
    (
        (
            r"(?P<end>maximum|minimum) (?P<what>\S+) usage per (?P<each>\w+) is "
            r"(?P<bound>[\w.+-]+?)(?:, but (?:request|limit) is (?P<asked>[\w.+-]+?))?\.?"
            r"(?:[,\]\s]|$)"
        ),
        _limit_range,
    ),
    (
        r"failed quota: [^:]*: must specify (?P<what>.*)",
        lambda found: f"the namespace's quota asks for {_part(found, 'what')}",
    ),
    (
        r"status unknown for quota",
        lambda _: "the cluster has not counted the namespace's quota yet",
    ),
    (
        r"because it is being terminated",
        lambda _: "the namespace is being deleted",
    ),
    (
        r'cannot create resource "(?P<what>[^"]*)".*?namespace "(?P<name>[^"]*)"',
        lambda found: (
            f"the hub may not create {_part(found, 'what')} in the namespace {_part(found, 'name')}"
        ),
    ),
    (
        r'namespaces "(?P<name>[^"]*)" not found',
        lambda found: f"the cluster has no namespace {_part(found, 'name')}",
    ),
    (
        r'pods "(?P<name>[^"]*)" already exists',
        lambda found: f"there is a pod {_part(found, 'name')} already",
    ),
)
_PATTERNS = tuple((re.compile(pattern, re.DOTALL), words) for pattern, words in _FORMS)

_LONGEST_MESSAGE = 4096
_SHOWN_CAUSES = 3


def refusal_words(status: Mapping[str, Any]) -> str:
    """Return why a pod was not created, a phrase; never raises.

    Args:
        status: The API server's answer to the create, as JSON, of any kind of refusal.
    """
    over_quota = quota_words(status)
    if over_quota:
        return over_quota
    message = text(status, "message")[:_LONGEST_MESSAGE]
    reason, code = text(status, "reason"), integer(status, "code") or 0
    for pattern, words in _PATTERNS:
        found = pattern.search(message)
        if found is not None:
            return words(found)
    if reason == "Invalid" or code == _INVALID:
        return _invalid(status)
    if code in _BY_CODE:
        return _BY_CODE[code]
    if code >= _SERVER_ERROR:
        return f"the cluster cannot take it now (its API server answers {code})"
    if message:
        return f"Kubernetes refuses it: {said(message)}"
    short = f" ({said(reason, 60)})" if reason else ""
    return f"Kubernetes refuses it{short}, and does not say why"


_INVALID = 422
_SERVER_ERROR = 500
_BY_CODE: Mapping[int, str] = {
    401: "the cluster does not accept the hub's credentials",
    429: "the cluster has too much to do now",
}
# Invalid value: "Sometimes": must be one of …; Required value; Unsupported value: "x": supported
# values: "Always", "Never"
_VALUE = re.compile(
    r'^(?P<kind>[A-Z][a-z ]+?)(?:: (?:"(?:[^"\\]|\\.)*"|-?[0-9.]+\w*|true|false|null))?'
    r"(?:: (?P<rest>.*))?$",
    re.DOTALL,
)


def _invalid(status: Mapping[str, Any]) -> str:
    """Say which fields are wrong, without their values: an environment variable is one of them."""
    words: list[str] = []
    for cause in items(mapping(status, "details"), "causes")[:_SHOWN_CAUSES]:
        where = said(text(cause, "field"), 80) or "the pod"
        words.append(f"{where}: {_what_is_wrong(cause)}")
    return f"the pod is not valid: {'; '.join(words)}" if words else "the pod is not valid"


def _what_is_wrong(cause: Mapping[str, Any]) -> str:
    message = text(cause, "message")[:_LONGEST_MESSAGE]
    found = _VALUE.match(message)
    if found is None:
        return "not accepted"
    rest = found["rest"] or ""
    secret = ".env[" in text(cause, "field") or "{" in rest or rest.startswith('"')
    kind = found["kind"].lower()
    return kind if secret or not rest else said(rest, 120)
