"""Settings as TOML that says what each means, and where its value comes from.

What a setting means is said once, by the comment behind or above its field, in whatever class has it.
"""

import ast
import inspect
import json
import textwrap
from collections.abc import Iterator, Mapping
from functools import cache
from io import StringIO
from pathlib import Path
from tokenize import COMMENT, generate_tokens
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from compress import config, files
from compress.config import BenchConfig
from compress.methods import METHODS

FILE = "config.toml"  # of a run directory: what was trained with
UNNAMED = {"classes"}  # what data decide, whatever a file says
WIDTH = 120
Said = Mapping[str, Any]


def describe_keys(data: str | None = None) -> str:
    """All settings as a TOML file in which each is a comment: with its default on a data set, and what it means."""
    resolved = config.resolve({"data": data} if data else {}, "settings")
    lines = [
        f"# Settings of compress, as they are for {resolved.data}. Take the first sign off what you change, and give",
        "# the file to --config. [train] is of the baseline, [finetune] of variants whose methods train.",
        "",
    ]
    for title, model, values in _list_tables(resolved):
        lines += ["", f"#[{title}]"] if title else []
        for name, field in _list_fields(model):
            text = f"#{_assign(name, values.get(name))}"
            lines += _put(text, _describe(model, name, field))
    return "\n".join(lines) + "\n"


def describe_file(path: Path | None, data: str | None = None, seed: int | None = None) -> str:
    """The settings of a file as they come out, as TOML; behind each whether file, option, preset or default says it.

    Raises:
        InputError: the file cannot be read, or says what cannot be.
    """
    given = config.read_toml(path, "--config") if path else {}
    options = {name: value for name, value in (("data", data), ("seed", seed)) if value is not None}
    resolved = config.read(path, data, seed)
    preset = config.fill_from_preset({**given, **options})
    said = f"preset of {resolved.data}" if "init" not in given else f"{given['init']}, or preset of {resolved.data}"
    return to_toml(resolved, (("option", options), (path.name if path else "", given), (said, preset)))


def to_toml(resolved: BenchConfig, origins: tuple[tuple[str, Said], ...] = ()) -> str:
    """Settings as a TOML file that gives them back.

    Args:
        origins: what says a value, and the tables that it says; the first counts, and none of them is the default.
    """
    lines: list[str] = []
    for title, model, values in _list_tables(resolved, everything=False):
        lines += ["", f"[{title}]"] if title else []
        for name, _ in _list_fields(model):
            value = values.get(name)
            text = _assign(name, value) if value is not None else f"# {name} is not set"
            origin = next(
                (who for who, said in origins if _has(said, [*filter(None, title.split(".")), name])), "default"
            )
            lines += _put(text, origin) if origins else [text]
    return "\n".join(lines) + "\n"


def keep(out: Path, resolved: BenchConfig) -> Path:
    """Writes settings into a run directory, unless they are there already."""
    text = to_toml(resolved)
    path = out / FILE
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        files.write(path, text)
    return path


def _list_tables(resolved: BenchConfig, *, everything: bool = True) -> Iterator[tuple[str, type[BaseModel], Said]]:
    """Title, class and values of each table; those of methods without a word of the file only for `everything`."""
    yield "", BenchConfig, resolved.model_dump(mode="json")
    for name, field in BenchConfig.model_fields.items():
        value, kind = getattr(resolved, name), _find_model(field.annotation)
        if kind is not None and (everything or value is not None):
            yield name, kind, value.model_dump(mode="json") if value is not None else kind().model_dump(mode="json")
    for name, kind in METHODS.items():
        if everything or name in resolved.methods:
            yield f"methods.{name}", kind, kind(**resolved.methods.get(name, {})).model_dump(mode="json")


def _list_fields(model: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    """Those that are no tables."""
    for name, field in model.model_fields.items():
        if name not in UNNAMED and _find_model(field.annotation) is None and name != "methods":
            yield name, field


def _find_model(annotation: Any) -> type[BaseModel] | None:
    found = [annotation, *get_args(annotation)]
    return next((each for each in found if inspect.isclass(each) and issubclass(each, BaseModel)), None)


def _has(said: Any, names: list[str]) -> bool:
    for name in names:
        if not isinstance(said, Mapping) or name not in said:
            return False
        said = said[name]
    return True


def _assign(name: str, value: Any) -> str:
    return f"{name} =" if value is None else f"{name} = {json.dumps(value, ensure_ascii=False)}"


def _put(text: str, comment: str) -> list[str]:
    """A line with its comment behind it, or above where the two are too long."""
    if not comment or len(text) + len(comment) + 4 <= WIDTH:
        return [f"{text}  # {comment}" if comment else text]
    return [*textwrap.wrap(comment, WIDTH, initial_indent="# ", subsequent_indent="# "), text]


def _describe(model: type[BaseModel], name: str, field: FieldInfo) -> str:
    choices = _list_choices(field.annotation)
    meaning = field.description or next(
        (told for kind in model.__mro__ if (told := _read_comments(kind).get(name))), ""
    )
    return "; ".join(filter(None, [meaning, f"one of {', '.join(choices)}" if choices else ""]))


def _list_choices(annotation: Any) -> list[str]:
    """What a field may be, where that is a choice."""
    if get_origin(annotation) is Literal:
        return [json.dumps(each) for each in get_args(annotation)]
    if get_origin(annotation) in (Union, UnionType):
        return [each for kind in get_args(annotation) if kind is not NoneType for each in _list_choices(kind)]
    return []


@cache
def _read_comments(kind: type) -> dict[str, str]:
    """By name of a field of this class, the comment behind its last line, or else the lines of comment above it."""
    try:
        source = textwrap.dedent(inspect.getsource(kind))
    except (OSError, TypeError):
        return {}
    lines = source.splitlines()
    comments = {
        t.start[0]: t.string.lstrip("# ") for t in generate_tokens(StringIO(source).readline) if t.type == COMMENT
    }
    (tree,) = ast.parse(source).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            first = node.lineno
            while lines[first - 2].lstrip().startswith("#"):
                first -= 1
            above = " ".join(comments[number] for number in range(first, node.lineno))
            found[node.target.id] = comments.get(node.end_lineno or 0) or above
    return found
