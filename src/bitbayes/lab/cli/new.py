"""The command that begins a recipe of the user's own: new."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from bitbayes.lab.cli.shared import Command, Name


@dataclass
class New(Command):
    """Write a recipe of your own to begin with: a Python file with a network and its data, which runs as it is.

    Args:
        file: Python file to write, such as my_recipe.py.
    """

    file: Name

    def run(self) -> None:
        """Write the file, and say what to do with it."""
        from bitbayes.lab.recipes import RECIPES

        path = Path(self.file)
        if path.suffix != ".py":
            raise ValueError(f"{path} is no name of a Python file; give one that ends in .py, such as my_recipe.py")
        if path.stem in RECIPES and path == Path(path.name):  # `bitbayes train digits.py` would be ambiguous
            raise ValueError(f"{path.stem} is the name of a recipe of this package; give another name")
        text = files("bitbayes.lab.recipes").joinpath("template.py").read_text(encoding="utf-8")
        if re.fullmatch(r"[\w.-]+", path.name):  # else it may be no word of a command, or end the docstring
            text = re.sub(r"\bFILE\b", path.name, text)
        try:
            with open(path, "x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            raise ValueError(f"{path} exists already; give another name, or remove it") from None
        except OSError as error:
            raise ValueError(f"cannot write {path}: {error.strerror}") from error
        print(f"written: {path}")
        quoted = shlex.quote(str(path))
        print(f"train it on the 8x8 digits: bitbayes train {quoted}")
        print(f"train it on your pictures: bitbayes train {quoted} --data FOLDER (FOLDER/CLASS/*.png)")
