"""What ends a command, in a sentence for the person who started it: whose fault it is, and where."""

import sys
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path

from compress.checkpoints import named_code

ENGINES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}  # by the package of their errors
OURS = Path(__file__).resolve().parents[2]
SAID = 200  # letters of an error that are told
DEBUG = "--debug"


def locate_user_code(error: BaseException) -> str | None:
    """`nets.py, line 7: assert x.ndim == 3`, the last line of the user's own code that an error passed through.

    None where it passed through none, or the command named no code.
    """
    if not named_code.get_code():
        return None
    frames = [frame for each in _list_causes(error) for frame in traceback.extract_tb(each.__traceback__)]
    last = next((frame for frame in reversed(frames) if _is_users(frame.filename)), None)
    return f"{Path(last.filename).name}, line {last.lineno}: {(last.line or '')[:SAID]}" if last else None


def describe_error(error: BaseException) -> str:
    """Its type and first line, also of one that cannot say what it is."""
    lines = traceback.format_exception_only(error)[-1].strip().splitlines()
    return lines[0][:SAID]


def describe_engine_error(error: BaseException) -> str | None:
    """What an engine says that cannot run a graph; None where the error is of none."""
    engine = ENGINES.get(type(error).__module__.partition(".")[0])
    return f"{engine} cannot run the graph ({str(error).splitlines()[0][:SAID]})" if engine else None


def _list_causes(error: BaseException) -> Iterator[BaseException]:
    """An error behind those that led to it."""
    seen: list[BaseException] = []
    now: BaseException | None = error
    while now is not None and now not in seen:
        seen.append(now)
        now = now.__cause__ or now.__context__
    yield from reversed(seen)


def _is_users(filename: str) -> bool:
    """Whether a file is neither of this program nor of Python, nor of what is installed."""
    path = Path(filename)
    if not path.is_file():
        return False
    installed = [Path(each).resolve() for each in {*sysconfig.get_paths().values(), sys.prefix, sys.base_prefix}]
    packages = [OURS / name for name in ("compress", "baselines", "reports")]
    return not any(path.resolve().is_relative_to(folder) for folder in (*installed, *packages))
