"""What the generating directives share: Markdown that a directive wrote, parsed into the page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective
from sphinx.util.nodes import nested_parse_with_titles

if TYPE_CHECKING:
    from collections.abc import Sequence


class GeneratedPart(SphinxDirective):
    """A directive with one argument that turns it into Markdown; its errors fail the build."""

    required_arguments = 1
    has_content = False

    def markdown(self, argument: str) -> Sequence[str]:
        """Return the lines of Markdown for `argument`."""
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        """Parse the generated lines where the directive stands, headings included."""
        try:
            lines = self.markdown(self.arguments[0])
        except (ImportError, AttributeError, OSError, ValueError) as error:
            raise ExtensionError(f"{self.name} {self.arguments[0]}: {error}") from error
        holder = nodes.section()
        holder.document = self.state.document
        nested_parse_with_titles(self.state, StringList(list(lines), source=self.name), holder)
        return list(holder.children)


def in_cell(text: str) -> str:
    """Return `text` on one line, fit for a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")
