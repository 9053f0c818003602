"""The command line. Heavy imports wait until a command runs, so that `--help` is quick."""

import io
import os
import sys
import warnings
from typing import Annotated

import typer

from compress import __version__
from compress.cli import json_output
from compress.cli.bench import bench
from compress.cli.config import config
from compress.cli.distill import distill
from compress.cli.doctor import doctor
from compress.cli.export import export
from compress.cli.halt import halt
from compress.cli.inspect import inspect
from compress.cli.predict import predict
from compress.cli.pretrain import pretrain
from compress.cli.prune import prune
from compress.cli.quantize import quantize
from compress.cli.report import report
from compress.cli.sweep import sweep
from compress.cli.train import train

app = typer.Typer(
    help="Vision Transformers made smaller and faster, every variant measured for real on this machine.",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},  # commands inherit it
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"compress {__version__}")
        raise typer.Exit


@app.callback()
def _take_options(
    version: Annotated[
        bool, typer.Option("--version", "-V", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """The options of `compress` itself."""


for command in (
    inspect,
    bench,
    train,
    sweep,
    pretrain,
    distill,
    prune,
    halt,
    quantize,
    export,
    predict,
    report,
    config,
    doctor,
):
    app.command()(command)


def main(argv: list[str] | None = None) -> int:
    """Runs a command line.

    Returns:
        0 when all went well, 1 when a variant failed, an export was not exact or a run is too slow, 2 for what the
        person can put right, 130 after Ctrl-C.
    """
    from compress.measure.environment import limit_spinning

    limit_spinning()
    os.environ["MPLBACKEND"] = "agg"  # plots go into files: a backend that is not installed must not end a report
    for stream in (sys.stdout, sys.stderr):  # a terminal that cannot show a sign shows another
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    warnings.filterwarnings("ignore", module=r"PIL\.")  # on the images of a person: what matters is said in words
    args = sys.argv[1:] if argv is None else argv
    return json_output.run_command(
        lambda: app(args=args or ["--help"], prog_name="compress", standalone_mode=False), args
    )


if __name__ == "__main__":
    sys.exit(main())
