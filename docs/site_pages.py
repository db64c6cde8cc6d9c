"""What MkDocs is told beyond `mkdocs.yml`: files outside of `docs/` that pages link to become pages of the site."""

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\]\(\.\./([\w./-]+)")


def on_files(files: Any, config: Any) -> Any:
    """Add those that the pages of `docs/` link to."""
    linked = {name for page in ROOT.glob("docs/*.md") for name in LINK.findall(page.read_text(encoding="utf-8"))}
    for name in sorted(linked):
        files.append(File.generated(config, _page(name), content=_content(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Point links that leave `docs/` to these pages; in a folder of it `../` does not."""
    if "/" in page.file.src_uri:
        return markdown
    return LINK.sub(lambda match: f"]({_page(match[1])}", markdown)


def _content(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        # Links of pages at the root of the repository start there.
        return text.replace("](docs/", "](")
    if path.suffix == ".ipynb":
        cells = [("".join(cell["source"]), cell["cell_type"]) for cell in json.loads(text)["cells"]]
        parts = [_code(source) if kind == "code" else source for source, kind in cells]
        return "\n\n".join(parts).replace("](../docs/", "](../")
    return f"# {path.name}\n\n{_code(text, 'python' if path.suffix == '.py' else 'text')}"


def _code(text: str, language: str = "python") -> str:
    return f"```{language}\n{text.rstrip()}\n```\n"


def _page(name: str) -> str:
    return name if name.endswith(".md") else f"{name}.md"
