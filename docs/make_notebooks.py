"""Runs the notebooks under docs/notebooks/ and stores what they print.

python docs/make_notebooks.py            # needs .[docs]; about a minute each on one core
"""

import os
import re
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent / "notebooks"


def main() -> None:
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    for path in sorted(FOLDER.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
        notebook.metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        for number, cell in enumerate(notebook.cells):
            cell.metadata, cell.id = {}, f"cell-{number}"  # the same bytes from the same outputs
            for output in cell.get("outputs", []):
                output.get("data", {}).pop("text/plain", "") if "text/html" in output.get("data", {}) else None
                if output.get("name") == "stderr":
                    output.text = re.sub(r".*\r", "", output.text)
        nbformat.write(notebook, path)
        print(f"{path}: {len(notebook.cells)} cells")


if __name__ == "__main__":
    main()
