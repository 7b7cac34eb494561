"""The file that holds every answer: SQLite with a write-ahead log, synced before an answer counts as given.

A process killed at any moment leaves all answers that were acknowledged, and the next one opens the file as
if nothing had happened.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from wsitool.errors import UsageError, WsitoolError

__all__ = ["Answer", "Chosen", "Database", "Kind", "Point", "StoreRecord"]

Kind = Literal["label", "unsure", "skip", "damaged"]
Chosen = Literal["random", "selected", "least-sure", "import"]
_VERSION = 1
_SCHEMA = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE stores (id INTEGER PRIMARY KEY, name TEXT NOT NULL, content_hash TEXT NOT NULL);
CREATE TABLE answers (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, store INTEGER NOT NULL, row INTEGER NOT NULL,
    annotator TEXT NOT NULL, kind TEXT NOT NULL, label INTEGER, note TEXT NOT NULL, chosen TEXT NOT NULL,
    suggested INTEGER, at REAL NOT NULL, undone INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX places ON answers (store, row);
CREATE TABLE damaged (store INTEGER, row INTEGER, reason TEXT NOT NULL, PRIMARY KEY (store, row));
CREATE TABLE points (
    probe TEXT, labels INTEGER, value REAL, low REAL, high REAL, patients INTEGER NOT NULL,
    PRIMARY KEY (probe, labels)
);
"""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What somebody said of a patch: `label` indexes the classes, `suggested` is what was shown to them.

    `id` is made by who sends it, so that the same answer sent twice is one. `chosen` is how the patch came to
    be asked for; `at` is the time, in seconds since 1970.
    """

    id: str
    store: int
    row: int
    annotator: str
    kind: Kind
    label: int | None = None
    note: str = ""
    chosen: Chosen = "random"
    suggested: int | None = None
    at: float = 0.0


@dataclass(frozen=True, kw_only=True)
class StoreRecord:
    """A store as it was when the database was made; `content_hash` is "" where it could not be opened."""

    id: int
    name: str
    content_hash: str


@dataclass(frozen=True, kw_only=True)
class Point:
    """Balanced accuracy by cross-validation with so many labels; low and high are its 95 % interval."""

    labels: int
    value: float
    low: float | None
    high: float | None
    patients: int


_ANSWER = tuple(field.name for field in fields(Answer))


class Database:
    """Open or make the database at `path`; UsageError where something else is there.

    With `reading` it is opened as it is, also while another process writes it, and cannot be changed.
    One connection, for any number of threads. Writing raises WsitoolError where the disk is full or fails,
    and then nothing of it is kept.
    """

    def __init__(self, path: str | Path, *, reading: bool = False) -> None:
        self.path, self.reading = Path(path), reading
        self._lock = threading.RLock()
        try:
            # Autocommit: each statement is a transaction of its own, on disk when it returns.
            self.connection = sqlite3.connect(
                f"{self.path.absolute().as_uri()}?mode={'ro' if reading else 'rwc'}",
                uri=True,
                isolation_level=None,
                check_same_thread=False,
            )
            version = self._one("PRAGMA user_version")
            tables = self._one("SELECT count(*) FROM sqlite_master")
        except sqlite3.Error as error:
            raise UsageError(f"'{path}' cannot be used as a database of labels ({error}).") from None
        if (version, tables) == (0, 0) and not reading:
            # One transaction: a process killed here leaves an empty file.
            self._write(lambda: self.connection.executescript(_making()))
        elif version != _VERSION:
            raise UsageError(
                f"'{path}' is no database of labels that this wsitool knows: choose another --out."
            )
        if not reading:
            self._write(lambda: self.connection.execute("PRAGMA journal_mode = WAL"))
            self.connection.execute("PRAGMA synchronous = FULL")

    @property
    def about(self) -> dict[str, Any]:
        """What it was made for; empty where it was made just now."""
        with self._lock:
            rows = self.connection.execute("SELECT name, value FROM about").fetchall()
        return {name: json.loads(value) for name, value in rows}

    @property
    def stores(self) -> list[StoreRecord]:
        with self._lock:
            rows = self.connection.execute("SELECT id, name, content_hash FROM stores ORDER BY id").fetchall()
        return [StoreRecord(id=id, name=name, content_hash=content) for id, name, content in rows]

    def begin(self, about: Mapping[str, Any], stores: Sequence[StoreRecord]) -> None:
        """Say what the labels are of; once."""
        rows = [(name, json.dumps(value)) for name, value in about.items()]
        with self._transaction() as connection:
            connection.executemany("INSERT INTO about VALUES (?, ?)", rows)
            connection.executemany("INSERT INTO stores VALUES (?, ?, ?)", [astuple(one) for one in stores])

    def mend(self, store: StoreRecord) -> None:
        """A store that could not be opened before can be."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE stores SET content_hash = ? WHERE id = ?", (store.content_hash, store.id)
            )

    def answers(self, *, of: tuple[int, int] | None = None) -> list[Answer]:
        """All that were not taken back, or those of one place (store, row), as they were given."""
        where = "" if of is None else " AND store = ? AND row = ?"
        with self._lock:
            rows = self.connection.execute(
                f"SELECT {', '.join(_ANSWER)} FROM answers WHERE NOT undone{where} ORDER BY number", of or ()
            ).fetchall()
        return [Answer(**dict(zip(_ANSWER, row, strict=True))) for row in rows]

    def add(self, answers: Sequence[Answer]) -> set[str]:
        """Keep answers, all or none; the ids of those that were not there already.

        UsageError where an id was another answer's.
        """
        columns, marks = ", ".join(_ANSWER), ", ".join("?" * len(_ANSWER))
        with self._transaction() as connection:
            new: list[Answer] = []
            for answer in answers:
                row = connection.execute(
                    f"SELECT {columns} FROM answers WHERE id = ?", (answer.id,)
                ).fetchone()
                if row is None:
                    new.append(answer)
                elif Answer(**dict(zip(_ANSWER, row, strict=True))) != replace(answer, at=row[-1]):
                    raise UsageError("Another answer was given by this id: load the page again.")
            connection.executemany(
                f"INSERT INTO answers ({columns}) VALUES ({marks})", [astuple(one) for one in new]
            )
        return {answer.id for answer in new}

    def undo(self, id: str) -> None:
        """Take an answer back; twice is as once."""
        with self._transaction() as connection:
            connection.execute("UPDATE answers SET undone = 1 WHERE id = ?", (id,))

    @property
    def damaged(self) -> dict[tuple[int, int], str]:
        """Why patches cannot be read, by store and row."""
        with self._lock:
            rows = self.connection.execute("SELECT store, row, reason FROM damaged").fetchall()
        return {(store, row): reason for store, row, reason in rows}

    def add_damaged(self, reasons: Mapping[tuple[int, int], str]) -> None:
        with self._transaction() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO damaged VALUES (?, ?, ?)",
                [(*place, reason) for place, reason in reasons.items()],
            )

    def points(self, probe: str) -> list[Point]:
        """The learning curve of a probe on the features of that name, by number of labels."""
        with self._lock:
            rows = self.connection.execute(
                "SELECT labels, value, low, high, patients FROM points WHERE probe = ? ORDER BY labels",
                (probe,),
            ).fetchall()
        names = [field.name for field in fields(Point)]
        return [Point(**dict(zip(names, row, strict=True))) for row in rows]

    def add_point(self, probe: str, point: Point) -> None:
        with self._transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO points VALUES (?, ?, ?, ?, ?, ?)", (probe, *astuple(point))
            )

    def close(self) -> None:
        with self._lock:
            self.connection.close()

    def _one(self, statement: str) -> Any:
        return self.connection.execute(statement).fetchone()[0]

    def _write(self, call: Any) -> None:
        with self._lock, self._told():
            call()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._told():
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield self.connection
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:  # some errors of the disk have ended it
                    self.connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            full = "full" in str(error)
            cause = (
                "the disk is full: free some space, and answer again" if full else f"{error}: answer again"
            )
            raise WsitoolError(f"Nothing more can be kept in '{self.path.name}', as {cause}.") from error


def _making() -> str:
    return f"BEGIN;{_SCHEMA}PRAGMA user_version = {_VERSION};COMMIT;"
