"""What every function of `import wsitool` gives back: a value that prints in a line and shows itself."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wsitool.base.pictures import card
from wsitool.errors import UsageError

if TYPE_CHECKING:
    import pandas

__all__ = ["Result", "as_dataframe", "missing_extra"]

# By name, as tables of parts name their functions: pages know the results of every room below them.
_WRITE_PAGE = ("wsitool.pages.write", "write_page")


@dataclass(frozen=True, kw_only=True, repr=False)
class Result(ABC):
    """The folder `out` that was written and, in words, the `command` that writes the same.

    Derived results say `summary` in a line, `facts` and `pictures` for a notebook, and `rows` for a table. A
    result stands for its folder wherever a path is taken: stores, a run, an encoder.
    """

    out: Path
    command: tuple[str, ...] = field(default=(), compare=False)

    @property
    @abstractmethod
    def summary(self) -> str:
        """What came of it, in a line."""

    @property
    def facts(self) -> Mapping[str, object]:
        """Figures by name."""
        return {}

    @property
    def pictures(self) -> Sequence[Path | NDArray[np.uint8]]:
        """Pictures (H, W, 3) uint8, or their files, that show it."""
        return ()

    @property
    @abstractmethod
    def rows(self) -> Sequence[Mapping[str, object]]:
        """The table of it: column names and values of each row."""

    def report(self) -> Path:
        """Write `out`/report.html, the page that `wsitool report` makes, and return its path."""
        module, name = _WRITE_PAGE
        page: Path = getattr(import_module(module), name)(self.out, command=self.command)
        return page

    def to_dataframe(self) -> pandas.DataFrame:
        """The rows as a pandas DataFrame; UsageError where pandas is not installed."""
        return as_dataframe(self.rows)

    def __fspath__(self) -> str:
        return os.fspath(self.out)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.summary}>"

    def _repr_html_(self) -> str:
        return card(f"{type(self).__name__}: {self.summary}", self.facts, self.pictures)


def as_dataframe(rows: Sequence[Mapping[str, object]]) -> pandas.DataFrame:
    """Rows as a DataFrame; UsageError where pandas is not installed."""
    try:
        import pandas
    except ImportError:
        raise missing_extra("A DataFrame", "pandas", "notebook") from None
    return pandas.DataFrame([dict(row) for row in rows])


def missing_extra(what: str, package: str, extra: str) -> UsageError:
    """The error that says which extra brings a package that is not installed."""
    return UsageError(f"{what} needs {package}: install wsitool[{extra}].")
