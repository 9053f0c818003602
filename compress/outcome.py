"""What a command came to: what its tables show and what it wrote, for programs; `--json` prints it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reports import Row

NOTHING_YET = "nothing new was built: run the same command again"
DONE = "the work itself was done"
CHOSEN = ("variant", "recipe", "runtime", "chosen")  # what is told of the row that is kept


class Stopped(KeyboardInterrupt):
    """Ctrl-C, or a signal that ends a command; says in a sentence what is kept, and what the same command does next."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a verb returns.

    Attributes:
        rows: what was measured; None where nothing is.
        written: files and folders that are new or newer; None where nothing is written.
        facts: what only this verb says, as JSON has it.
        exit_code: of the command.
    """

    rows: "Sequence[Row] | None" = None
    written: Sequence[Path] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    exit_code: int = 0

    @property
    def chosen(self) -> "Row | None":
        """The row whose file was kept."""
        return next((row for row in self.rows or () if row.chosen is not None), None)

    def describe(self) -> dict[str, Any]:
        """All of it as JSON has it; of rows the columns of rows.csv, in base units and not rounded."""
        import reports

        told: dict[str, Any] = dict(self.facts)
        if self.rows is not None:
            told["verdict"] = reports.state_verdict(list(self.rows))
            told["chosen"] = self.chosen and {name: getattr(self.chosen, name) for name in CHOSEN}
        if self.written is not None:
            told["written"] = list(map(str, self.written))
        return told if self.rows is None else told | {"rows": reports.list_figures(list(self.rows))}
