"""The hostile list, as data: what must come back as a clear refusal wherever a person can send it.

``TEXTS`` are texts for a name, a value or a key; ``DATA`` are JSON-like values in place of a text
or of an object. Big and deep ones are made by functions, so that importing this costs nothing.
"""

from __future__ import annotations

from typing import Any

MARK = "qhub-hostile-mark"
"""What a payload would create or print if it ran: look for it after a test."""

TEXTS: dict[str, str] = {
    "empty": "",
    "blank": " ",
    "tab": "\t",
    "newline": "general\nrm -rf /",
    "trailing newline": "general\n",
    "carriage return": "general\r--uid=0",
    "directive": f"general\n#SBATCH --comment={MARK}",
    "directive alone": f"#SBATCH --comment={MARK}",
    "nul": "general\0",
    "nul alone": "\0",
    "escape": "\x1b]0;title\x07general",
    "backspace": "general\b\b\b",
    "delete": "general\x7f",
    "c1 control": "general\x85next",
    "single quote": f"'; touch /tmp/{MARK}; '",
    "double quote": f'"; touch /tmp/{MARK}; "',
    "command substitution": f"$(touch /tmp/{MARK})",
    "backticks": f"`touch /tmp/{MARK}`",
    "variable": "${SHELL}",
    "ifs": f"x$IFS;touch$IFS/tmp/{MARK}",
    "semicolon": f"general;touch /tmp/{MARK}",
    "pipe": "general|id",
    "ampersand": "general&id",
    "redirect": f"general>/tmp/{MARK}",
    "here document": f"EOF\ntouch /tmp/{MARK}\nEOF",
    "glob": "*",
    "brace": "{a,b}",
    "tilde": "~root",
    "backslash": "general\\",
    "leading dash": "-p",
    "leading dashes": f"--wrap=touch /tmp/{MARK}",
    "dashes alone": "--",
    "uid option": "--uid=root",
    "parent folder": "../../../etc/passwd",
    "absolute path": "/etc/passwd",
    "file url": "file:///etc/passwd",
    "percent": "%s%n%x",
    "percent encoded": "general%0A%23SBATCH",
    "format": "{0.__class__}",
    "template": "{{ 7 * 7 }}",
    "template block": "{% raw %}",
    "tag": f"<script>document.title='{MARK}'</script>",
    "attribute": '"><img src=x onerror=alert(1)>',
    "entity": "&lt;general&gt;",
    "sql": "'; DROP TABLE users; --",
    "json": '{"profile": "general"}',
    "yaml tag": "!!python/object/apply:os.system [id]",
    "merge key": "<<",
    "prototype": "__proto__",
    "dunder": "__class__",
    "cyrillic look-alike": "generаl",
    "fullwidth look-alike": "ｇｅｎｅｒａｌ",
    "mathematical look-alike": "𝐠𝐞𝐧𝐞𝐫𝐚𝐥",
    "fullwidth digits": "８ GiB",
    "arabic digits": "٨ GiB",
    "look-alike dash": "general‐x",
    "ligature": "ﬁle",
    "combining": "ge\u0301ne\u0301ral",
    "combining heap": "g" + "\u0301" * 100,
    "right to left": "\u202elareneg",
    "isolate": "\u2066general\u2069",
    "zero width space": "gen\u200beral",
    "zero width joiner": "gen\u200deral",
    "byte order mark": "\ufeffgeneral",
    "soft hyphen": "gen\u00aderal",
    "no-break space": "general\u00a0",
    "line separator": "general\u2028#SBATCH",
    "paragraph separator": "general\u2029#SBATCH",
    "tag characters": "general\U000e0067\U000e0065",
    "private use": "general\ue000",
    "surrogate": "general\ud800",
    "noncharacter": "general\uffff",
    "turkish": "GENERAL\u0130",
    "infinity": "inf",
    "nan": "nan",
    "negative": "-1",
    "zero": "0",
    "exponent": "1e999",
    "huge number": "9" * 200,
    "unlimited": "UNLIMITED",
    "comma list": "general,root,--uid=0",
    "257 characters": "a" * 257,
    "10 kB": "a" * 10_000,
}
"""By name, so that a failing test says which."""


def ten_megabytes() -> str:
    """A text of ten million characters."""
    return "a" * 10_000_000


def deep(levels: int = 100_000) -> Any:
    """Lists in lists; no walker that recurses survives it."""
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


def deep_mapping(levels: int = 100_000) -> Any:
    """Mappings in mappings, with a key that is expected."""
    value: Any = {}
    for _ in range(levels):
        value = {"options": value}
    return value


def wide(keys: int = 100_000) -> dict[str, str]:
    """A mapping with many keys."""
    return {f"key-{number}": "x" for number in range(keys)}


def wrong_types() -> dict[str, Any]:
    """Values of every JSON type, and of some that JSON has not, to stand where a text belongs."""
    return {
        "true": True,
        "false": False,
        "zero": 0,
        "number": 7,
        "negative": -1,
        "float": 1.5,
        "infinite": float("inf"),
        "not a number": float("nan"),
        "larger than any float": 10**400,
        "smaller than any float": -(10**400),
        "huge": 10**4000,
        "list": ["general"],
        "empty list": [],
        "mapping": {"profile": "general"},
        "bytes": b"general",
        "set": {"general"},
        "object": object(),
        "type": str,
        "deep": deep(),
        "deep mapping": deep_mapping(),
        "wide": wide(),
    }


DATA: dict[str, Any] = {
    "none in options": {"options": {"walltime": None}},
    "number as profile": {"profile": 1},
    "list as profile": {"profile": ["general"]},
    "mapping as profile": {"profile": {"$ne": ""}},
    "list as options": {"options": ["walltime"]},
    "text as options": {"options": "walltime=day"},
    "number as option": {"options": {"walltime": 8}},
    "true as option": {"options": {"walltime": True}},
    "list as option": {"options": {"walltime": ["day"]}},
    "number as key": {"options": {1: "day"}},
    "none as key": {None: "general"},
    "tuple as key": {("profile",): "general"},
    "unknown key": {"profile": "general", "partition": "general\n#SBATCH --uid=0"},
    "spawner attribute": {"cmd": ["/bin/sh"], "profile": "general"},
    "batchspawner": {"prologue": f"touch /tmp/{MARK}"},
    "case": {"Profile": "general"},
    "text": "general",
    "list": [{"profile": "general"}],
    "number": 3,
    "true": True,
}
"""Whole ``user_options``, every one of them wrong for profiles that know an option ``walltime``."""
