"""The code that --model names: known to the process that was told, and to the workers that it starts."""

import os

VARIABLE = "COMPRESS_MODEL"  # of the environment of workers alone
_spec: str | None = None


def name_code(spec: str | None) -> None:
    """Code for this process and workers that it starts from now on; None: no longer any."""
    global _spec
    _spec = spec or None


def get_code() -> str | None:
    return _spec


def make_variables() -> dict[str, str]:
    """What a worker is started with; empty where none is named, whatever the environment of this process says."""
    return {VARIABLE: _spec or ""}


def take_code() -> None:
    """In a worker: names what it was started with."""
    name_code(os.environ.get(VARIABLE))
