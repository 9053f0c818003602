"""What was made once is kept in a run directory, in a folder named by a hash of all that it depends on.

OUT/models/<name>-<hash>/<files>
OUT/<file>                           copy of the newest, for a person who looks for it
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from baselines.distributed import ALONE, World
from compress import files
from compress.checkpoints.checkpoint import StateFile


@dataclass(frozen=True)
class ArtifactStore:
    """The artifacts of a run directory.

    Args:
        folder: the run directory, writable.
        world: processes that work together. All call the same methods; the first alone reads and writes.
    """

    folder: Path
    world: World = ALONE

    def place(self, name: str, key: str, file: str) -> Path:
        """Where the file lies, or will."""
        return self.folder / "models" / f"{name}-{key}" / file

    def get_or_make(self, path: Path, make: Callable[[Path], object]) -> Path:
        """`path`, made unless it is there.

        Args:
            make: writes it, whole or not at all and last of all it writes. All processes call it, to work together.
        """
        if not self.world.share(path.exists):
            make(path)
        return path

    def discard(self, path: Path, *, whole: bool) -> None:
        """Removes the state of an unfinished training beside `path`; where `whole`, all that lies there."""

        def remove() -> None:
            StateFile(path.with_name("state.pt")).remove()
            if whole:
                shutil.rmtree(path.parent, ignore_errors=True)

        self.world.share(remove)

    def publish(self, path: Path, name: str) -> Path:
        """Copies a file to where a person looks for it: the run directory itself."""
        newest = self.folder / name
        if self.world.rank == 0:
            content = path.read_bytes()
            if not newest.exists() or newest.read_bytes() != content:
                files.write(newest, content)
        return newest
