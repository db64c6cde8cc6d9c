"""What MkDocs is told beyond `mkdocs.yml`: files outside of `docs/` that pages link to become pages of the site."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\]\(\.\./((?:CONTRIBUTING|CHANGELOG)\.md|examples/\w+\.\w+)")


def on_files(files: Any, config: Any) -> Any:
    """Add those that the pages of `docs/` link to, and the two that the navigation names."""
    linked = {name for page in ROOT.glob("docs/*.md") for name in LINK.findall(page.read_text(encoding="utf-8"))}
    for name in sorted(linked):
        text = (ROOT / name).read_text(encoding="utf-8")
        # Their own links are from the root of the repository.
        content = text.replace("](docs/", "](") if name.endswith(".md") else f"# {name}\n\n```python\n{text}```\n"
        files.append(File.generated(config, _page(name), content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Point links that leave `docs/` to these pages."""
    return LINK.sub(lambda match: f"]({_page(match[1])}", markdown)


def _page(name: str) -> str:
    return name if name.endswith(".md") else f"{name}.md"
