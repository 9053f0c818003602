"""The command line. Heavy imports wait until a command runs, so that `--help` is quick."""

import sys

import typer

from compress import terminal
from compress.commands.bench import bench
from compress.commands.distill import distill
from compress.commands.doctor import doctor
from compress.commands.export import export
from compress.commands.halt import halt
from compress.commands.inspect import inspect
from compress.commands.predict import predict
from compress.commands.pretrain import pretrain
from compress.commands.prune import prune
from compress.commands.quantize import quantize
from compress.commands.report import report
from compress.commands.sweep import sweep
from compress.commands.train import train

app = typer.Typer(
    help="Vision Transformers made smaller and faster, every variant measured for real on this machine.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
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
    doctor,
):
    app.command()(command)


def main(argv: list[str] | None = None) -> int:
    """Runs a command line.

    Returns:
        0 when all went well, 1 when a variant failed, an export was not exact or a run is too slow, 2 for what the
        person can put right, 130 after Ctrl-C.
    """
    from compress.measure.environment import share_processors

    share_processors()
    args = sys.argv[1:] if argv is None else argv
    return terminal.guarded(lambda: app(args=args or ["--help"], prog_name="compress", standalone_mode=False))


if __name__ == "__main__":
    sys.exit(main())
