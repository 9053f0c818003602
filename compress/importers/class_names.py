"""Names of classes that trainings save beside the weights."""

import argparse
from collections.abc import Iterator, Mapping
from typing import Any

from compress.importers.base import Content

NUMBERED = (  # name -> number
    "class_to_idx", "class2idx", "class_to_id", "class2id", "label2id", "label2idx", "label_to_id", "label_to_idx",
)  # fmt: skip
NAMED = (  # number -> name
    "idx_to_class", "idx2class", "id_to_class", "id2class", "id2label", "idx2label", "id_to_label", "idx_to_label",
)  # fmt: skip
LISTED = ("classes", "class_names", "label_names", "CLASSES", "categories", "names", "labels", "label_map")  # in order
LONGEST_NAME = 500  # characters


def find_class_names(content: Content, count: int) -> tuple[str, tuple[str, ...]] | None:
    """The entry of a file that names its classes, and the names in the order of its head of `count` classes."""
    for tree in _list_tables(content):
        for entry in (*NUMBERED, *NAMED, *LISTED):
            names = _read(tree.get(entry), count) if entry in tree else None
            if names is not None:
                return entry, names
    return None


def _list_tables(content: Content) -> Iterator[Mapping[Any, Any]]:
    """What lies beside the weights, and inside of tables there, such as `meta` and `hyper_parameters`."""
    if isinstance(content.tree, Mapping):
        yield content.tree
        inner = (vars(each) if isinstance(each, argparse.Namespace) else each for each in content.tree.values())
        yield from (each for each in inner if isinstance(each, Mapping))


def _read(value: Any, count: int) -> tuple[str, ...] | None:
    """None where these are no names of so many classes."""
    if isinstance(value, Mapping):
        numbered = all(isinstance(number, int) for number in value.values())
        pairs = [(number, name) if numbered else (name, number) for name, number in value.items()]
        by_number = {str(number): name for number, name in pairs if isinstance(number, int | str)}
        names = [by_number.get(str(number)) for number in range(count)]
    else:
        names = list(value) if isinstance(value, list | tuple) else []
    texts = [name for name in names if isinstance(name, str) and len(name) <= LONGEST_NAME and name.isprintable()]
    return tuple(texts) if len(texts) == len(set(texts)) == count else None
