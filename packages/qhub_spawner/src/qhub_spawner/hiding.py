"""Secrets in texts of an administrator, scripts and commands, that are shown to people. Pure.

Nobody can know what is a secret: what is assigned to a name that looks like one is taken for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["HIDDEN", "hidden_text", "hidden_words", "looks_secret"]

HIDDEN = "(not shown)"

_LOOK = r"(?:token|secret|passw|passphrase|pwd|key|credential|auth|cookie)"
# atomic, and below nowhere begun amid a word: a long word is not gone through again and again
_NAME = rf"(?>[-\w.]*?{_LOOK}[-\w.]*+)"
_LOOKS_SECRET = re.compile(_NAME, re.IGNORECASE)
_WORD = r"""(?:'[^']*'|"(?:\\.|[^"\\])*"|\\.|[^\s;&|()'"`\\])+"""
# between a name and what it maps to; a comparison (==) is none
_BETWEEN = r"""\\?['"]\]?\s*+(?::|=(?!=))\s*+|[ \t]*+:[ \t]++|[ \t]++=(?!=)[ \t]*+"""
# of YAML, JSON, TOML or Python: all of a word in quotes, of a list, or of a block; what has a quote
# that is not closed, and what has none, to the line's end
_VALUE = (
    r"[|>][-+\d]*[ \t]*\n(?P<pad>[ \t]+)(?=\S)[^\n]*+(?:\n(?P=pad)[^\n]*+|\n(?=[ \t]*\n))*|"
    r"""[rbfu]{0,2}(?:'[^']*'|"(?:\\.|[^"\\])*")+(?=[\s,;&|)\]}]|\Z)|"""
    r"""\\(?P<escaped>['"])(?:(?!\\(?P=escaped)).)*\\(?P=escaped)|"""
    r"\[[^\]]*+\]|"
    r"""['"][^\n]++|"""
    r"""[^\s'"](?:[^'"\n]|(?<=\w)['"](?=\w))*"""
)
_IN_A_SCRIPT = re.compile(
    "|".join(
        (
            # a word of a command: '--ServerApp.token=x y'
            rf"(?P<quote>['\"])(?P<quoted>{_NAME}=)(?:(?!(?P=quote)).)*(?P=quote)",
            # export API_TOKEN="x y"
            rf"(?<![-\w.'\"])(?P<name>{_NAME}=){_WORD}",
            # mount --password x
            rf"(?<![-\w.'\"])(?P<flag>--?{_NAME}[ \t]+)(?!-){_WORD}",
            # curl -H "Authorization: Bearer x"; token: "x", {"password": "x"}, KEY = "x"
            rf"(?<![-\w.])(?P<mapped>{_NAME}(?:{_BETWEEN}))(?:{_VALUE})",
            # https://user:x@example.org
            r"(?P<address>://[^/\s:@'\"]+:)[^@/\s'\"]+(?=@)",
        )
    ),
    re.IGNORECASE | re.DOTALL,
)
_ASSIGNED = re.compile(rf"({_NAME}[=:]).+", re.IGNORECASE | re.DOTALL)


def looks_secret(name: str) -> bool:
    """Whether what bears this name is taken for a secret."""
    return _LOOKS_SECRET.fullmatch(name) is not None


def hidden_text(script: str) -> str:
    """Return a script with what it assigns to names that look secret hidden."""
    return _IN_A_SCRIPT.sub(_hidden, script)


def _hidden(found: re.Match[str]) -> str:
    if found["quote"]:
        return f"{found['quote']}{found['quoted']}{HIDDEN}{found['quote']}"
    kept = found["name"] or found["flag"] or found["mapped"] or found["address"]
    return f"{kept}{HIDDEN}"


def hidden_words(words: Iterable[str]) -> list[str]:
    """Return a command with the values of what looks secret hidden; a word may be a script."""
    made: list[str] = []
    before = ""
    for word in words:
        if before == "-c":  # of a shell
            made.append(hidden_text(word))
        elif before.startswith("-") and looks_secret(before) and not word.startswith("-"):
            made.append(HIDDEN)
        elif _ASSIGNED.fullmatch(word):
            made.append(_ASSIGNED.sub(rf"\1{HIDDEN}", word))
        else:
            made.append(hidden_text(word))
        before = word
    return made
