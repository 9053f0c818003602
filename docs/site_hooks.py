"""For mkdocs: pages and files of the repository that lie outside `docs/`, and notebooks, join the site."""

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
OUTSIDE = ("*.md", "LICENSE", "Dockerfile", "benchmarks/*.py", "configs/**/*.toml")
REPORTS = "reports/published/**/*"
SHOWN = {".md", ".svg", ".png", ".csv"}


def on_files(files: Files, config: Any) -> Files:
    """README is the front page."""
    files.append(File.generated(config, "index.md", abs_src_path=str(ROOT / "README.md")))
    found = [path for pattern in OUTSIDE for path in ROOT.glob(pattern) if path.name != "README.md"]
    found += [path for path in ROOT.glob(REPORTS) if path.suffix in SHOWN]
    for path in found:
        files.append(File.generated(config, path.relative_to(ROOT).as_posix(), abs_src_path=str(path)))
    for path in (ROOT / "docs" / "notebooks").glob("*.ipynb"):
        uri = f"notebooks/{path.stem}.md"
        files.append(File.generated(config, uri, content=notebook_md(json.loads(path.read_text(encoding="utf-8")))))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links as they are in the repository become links within the site."""
    if page.file.src_uri == "index.md":
        markdown = re.sub(r"(\]\(|src=\")docs/", r"\1", markdown)
    if page.file.src_uri == "CHANGELOG.md":
        markdown = markdown.replace("](docs/", "](")
    if page.file.src_uri.startswith("reports/"):
        markdown = re.sub(r"\[(\d+)\](?!\()", r"\\[\1\\]", markdown)  # marks of notes, not references
    return markdown.replace("](../", "](") if "/" not in page.file.src_uri else markdown


def notebook_md(notebook: dict[str, Any]) -> str:
    """Cells and what they printed; tables as they stand."""
    parts = []
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if html := "".join(data.get("text/html", [])):
                parts.append(re.sub(r"\n\s*\n", "\n", re.sub(r"<style.*?</style>", "", html, flags=re.DOTALL)))
            elif text := "".join(output.get("text", data.get("text/plain", []))):
                parts.append(f"```text\n{text.rstrip()}\n```")
    return "\n\n".join(parts)
