"""Every guide of the navigation has an example with its output, a picture, a table and caveats, and no history."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from test_docs import commands, shown_output

ROOT = Path(__file__).resolve().parents[1]
PICTURE = re.compile(r"!\[[^\[\]]{20,}\]\((images/[\w-]+\.\w+)\)")


def guides() -> list[Path]:
    (navigation,) = re.findall(r"^nav:\n.*?(?=^\w|\Z)", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE | re.DOTALL)
    (pages,) = (entry["Guides"] for entry in yaml.safe_load(navigation)["nav"] if "Guides" in entry)
    return [ROOT / "docs" / name for page in pages for name in page.values()]


every_guide = pytest.mark.parametrize("page", guides(), ids=lambda page: page.stem)


@every_guide
def test_a_guide_has_an_example_a_picture_a_table_and_caveats(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert shown_output(page) or commands(page)
    assert "\n| --- |" in text
    assert "\n## Caveats\n" in text
    pictures = PICTURE.findall(text)
    assert pictures and all((ROOT / "docs" / path).is_file() for path in pictures)


@every_guide
def test_a_guide_describes_the_present(page: Path) -> None:
    assert not re.findall(r"\b20\d\d-\d\d-\d\d\b", page.read_text(encoding="utf-8"))
