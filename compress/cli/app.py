"""The command line. Heavy imports wait until a command runs, so that `--help` is quick."""

import sys
from typing import Annotated

import typer

from compress import __version__
from compress.cli import faults, json_output, surroundings
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
from compress.cli.search import search
from compress.cli.sweep import sweep
from compress.cli.train import train

app = typer.Typer(
    help="Compress Vision Transformers and benchmark every variant on your hardware.",
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
    debug: Annotated[
        bool, typer.Option(faults.DEBUG, help="Show tracebacks of errors, and warnings of libraries.")
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
    search,
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
        person can put right, 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP.
    """
    from compress.measure.environment import limit_spinning

    limit_spinning()
    given = sys.argv[1:] if argv is None else argv
    args, debug = [each for each in given if each != faults.DEBUG], faults.DEBUG in given  # wherever it stands
    with surroundings.prepare(debug=debug):
        return json_output.run_command(
            lambda: app(args=args or ["--help"], prog_name="compress", standalone_mode=False), args, debug=debug
        )


if __name__ == "__main__":
    sys.exit(main())
