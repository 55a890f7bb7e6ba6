"""Lets a docstring say "Example:"; griffe knows "Examples:" and would set the code as prose."""

import re
from typing import Any

from griffe import Extension

HEADING = re.compile(r"^([ \t]*)Example:[ \t]*$", re.MULTILINE)


class Examples(Extension):
    """Renames the section before the docstring is parsed."""

    def on_object(self, *, obj: Any, **kwargs: Any) -> None:
        """Called once for every module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = HEADING.sub(r"\1Examples:", obj.docstring.value)
