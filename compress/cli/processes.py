"""A training of several processes, as the command line sees it: how it begins, and how it ends before its time.

When one process is gone, the others can do nothing more. Over gloo they are told by an error in the middle of a step;
over NCCL they hang, and the launcher ends them with SIGTERM. Either way, one of them says once where to resume.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from baselines.errors import InputError
from compress import files
from compress.cli import terminal
from compress.measure.environment import available_cpus, configure_allocator

if TYPE_CHECKING:
    import torch

    from baselines.distributed import World
    from compress.checkpoints.checkpoint import StateFile
    from compress.cli.groups import TrainingOptions
    from compress.config import BenchConfig
    from compress.importers import Hints
    from compress.training.run import Run
    from compress.variant import Variant

DIGITS = 6  # of a number of processes, at most
GRACE_S = 1.0  # after SIGTERM, for a process that ends by itself


class Team:
    """The processes of this training, and what is known of it when it cannot continue."""

    def __init__(self, world: "World", device: "torch.device", options: "TrainingOptions", say: Callable[[str], Any]):
        self.world, self.device, self.options, self.say = world, device, options, say
        self.state: StateFile | None = None  # of the training that runs

    def open_run(self, settings: "BenchConfig", wanted: "Variant", hints: "Hints | None" = None) -> "Run":
        """What is needed to train `wanted`, as the options say; raises InputError where it cannot be."""
        from compress import settings as settings_
        from compress.training.run import open_run

        run = open_run(
            settings,
            self.options.out,
            self.device,
            self.say,
            hints=hints,
            tensorboard=self.options.tensorboard,
            restart=None if self.options.resume else wanted,
            world=self.world,
            began=self.follow,
        )
        self.world.share(lambda: settings_.keep(self.options.out, run.config))
        return run

    def follow(self, state: "StateFile") -> None:
        """Notes where the state of the training is kept that begins now."""
        self.state = state

    def kept(self) -> str:
        """What there is of the training that runs, for the person who has to start it again."""
        step = self.state.step() if self.state else None
        if self.state is None or step is None:
            return "run the same command again to resume"
        return f"its state after step {step:,} is saved in {self.state.path}: run the same command again to resume"

    def end(self, why: str) -> NoReturn:
        """Ends this process at once: whoever waits for the others would wait forever."""
        try:
            terminal.refuse(f"{why}; {self.kept()}", 1)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)


def count() -> int:
    """How many processes `torchrun` started; 1 without it.

    Raises:
        InputError: what it sets is not whole.
    """
    size = _read_count("WORLD_SIZE")
    if size > 1:
        for name in ("RANK", "LOCAL_RANK", "MASTER_PORT"):
            if not os.environ.get(name, "").isdecimal():
                raise InputError(
                    f"WORLD_SIZE={size} and {name}={os.environ.get(name)!r} are not what torchrun sets; start this "
                    "with torchrun, or unset WORLD_SIZE"
                )
    return size


def processors() -> int:
    """Processors for each process of this machine."""
    return max(available_cpus() // _read_count("LOCAL_WORLD_SIZE"), 1)


def _read_count(name: str) -> int:
    """A number of processes, as `torchrun` sets it; raises InputError where somebody set something else."""
    text = os.environ.get(name, "1")
    if not text.isdecimal() or len(text) > DIGITS or not int(text):
        raise InputError(f"{name}={text!r} is not a number of processes as torchrun sets it; unset it")
    return int(text)


def quieten() -> None:
    """Keeps warnings of torch's own from the terminal, that of each process the same. To be called before it loads."""
    if count() > 1:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")


def check_alone(command: str) -> None:
    """Raises InputError where `torchrun` started several processes for what is the work of one."""
    if count() > 1:
        raise InputError(
            f"{command} runs in one process, not in {count()}; start it without torchrun, which is for compress train"
        )


@contextmanager
def training(options: "TrainingOptions", say: Callable[[str], Any]) -> Iterator[Team]:
    """Readies this process for a training, and meets the others.

    Leaves with exit code 1, saying why, when another process is gone.

    Args:
        say: takes lines for the person at the terminal.

    Raises:
        InputError: they cannot work here.
    """
    import torch

    from baselines import device as devices
    from baselines import distributed

    chosen = devices.resolve(options.device)
    files.writable_folder(options.out)
    torch.set_num_threads(options.processors)
    configure_allocator()
    world, here = distributed.join(chosen)
    team = Team(world, here, options, say)
    if world.size > 1:
        watch(team)
    try:
        yield team
        distributed.leave()
    except Exception as error:
        if world.size > 1 and distributed.lost(error):
            team.end("another process of this training ended")
        raise


def watch(team: Team) -> None:
    """Lets a thread wait for SIGTERM, since this process may hang in a call that no handler can interrupt."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, lambda *_: None)
    os.register_at_fork(after_in_child=_forget)  # processes that load images are ended with SIGTERM, too

    def wait() -> None:
        while os.read(reading, 1)[0] != signal.SIGTERM:
            pass
        time.sleep(GRACE_S)
        team.end("this training received SIGTERM, as happens when another of its processes ends")

    threading.Thread(target=wait, daemon=True).start()


def _forget() -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
