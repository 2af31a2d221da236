"""What people and programs read when they are not let through. Pure.

The pages are plain HTML without scripts; every value in them is escaped.
"""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape

__all__ = ["Answer", "Form", "content_security_policy"]

_STYLE = (
    "body{font:1.05rem/1.5 system-ui,sans-serif;max-width:34rem;margin:12vh auto;padding:0 1.25rem;"
    "color:#1c1c1c;background:#fff}h1{font-size:1.6rem}a{color:#0b57a4}button{font:inherit;"
    "padding:.5rem 1.1rem;border:1px solid #0b57a4;border-radius:.3rem;background:#0b57a4;"
    "color:#fff;cursor:pointer}@media(prefers-color-scheme:dark){body{color:#eee;background:#171717}"
    "a{color:#8ec2ff}}"
)
_STYLE_HASH = b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode("ascii")
_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>
</body>
</html>
"""


def content_security_policy(*form_targets: str) -> str:
    """Return the header that lets a page load nothing, and forms go here and to `form_targets`.

    Chromium holds what a form is redirected to against it as well.
    """
    targets = " ".join(("'self'", *form_targets))
    return (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action {targets}; "
        "base-uri 'none'; frame-ancestors 'none'"
    )


@dataclass(frozen=True, slots=True)
class Form:
    """One button that sends something.

    Attributes:
        action: Where to, a path of ours.
        label: On the button.
        fields: What it sends.
    """

    action: str
    label: str
    fields: Mapping[str, str] = field(default_factory=dict, repr=False)

    def html(self) -> str:
        """Return it as HTML."""
        fields = "".join(
            f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">'
            for name, value in self.fields.items()
        )
        return (
            f'<form method="post" action="{escape(self.action)}">{fields}'
            f'<button type="submit">{escape(self.label)}</button></form>'
        )


@dataclass(frozen=True, slots=True)
class Answer:
    """One page, and the same for programs.

    Attributes:
        status: Of HTTP.
        title: The heading.
        paragraphs: The text, without markup.
        links: Where to go on, by label.
        form: A button.
        missing: For programs: what the person would need.
    """

    status: int
    title: str
    paragraphs: tuple[str, ...] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    form: Form | None = None
    missing: tuple[str, ...] = ()

    def html(self) -> str:
        """Return the page."""
        parts = [f"<p>{escape(each)}</p>" for each in self.paragraphs]
        if self.form is not None:
            parts.append(self.form.html())
        parts += [
            f'<p><a href="{escape(target)}">{escape(label)}</a></p>'
            for label, target in self.links.items()
        ]
        return _PAGE.format(title=escape(self.title), style=_STYLE, body="\n".join(parts))

    def json(self) -> str:
        """Return it for programs."""
        content: dict[str, object] = {
            "status": self.status,
            "message": " ".join((f"{self.title}.", *self.paragraphs)),
        }
        if self.missing:
            content["missing"] = list(self.missing)
        return json.dumps(content)
