"""Small files: the limits of CONTRIBUTING.md, which ruff does not know in lines."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("compress", "baselines", "reports", "benchmarks")
FILE, FUNCTION = 250, 60  # lines


def test_files_and_functions_are_small() -> None:
    large = []
    for path in (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        where = path.relative_to(ROOT)
        if (lines := len(text.splitlines())) > FILE:
            large.append(f"{where}: {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                if lines > FUNCTION:
                    large.append(f"{where}: {node.name} has {lines} lines")
    assert not large
