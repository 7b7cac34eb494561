"""From paths and options to a session: stores, database, features and predictions that fit each other."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from wsitool.base.files import check_writable
from wsitool.base.lock import locked
from wsitool.base.paths import AnyPath
from wsitool.base.progress import SILENT, Reporter
from wsitool.base.sentences import one_sentence
from wsitool.errors import UsageError, WsitoolError
from wsitool.labelling.database import Database
from wsitool.labelling.exchange import selection_of, suggestions_of
from wsitool.labelling.options import LabelOptions
from wsitool.labelling.patches import Patches, groups_of_test, numbered, open_patches
from wsitool.labelling.session import Learning, Plan, Session

__all__ = ["learning_meanwhile", "opened"]

_SHARED = 10.0


@contextmanager
def opened(
    stores: AnyPath | Iterable[AnyPath],
    out: str | Path,
    options: LabelOptions,
    *,
    learning: bool = True,
    reading: bool = False,
    reporter: Reporter = SILENT,
) -> Iterator[Session]:
    """The session of `stores` with the database `out`, which is made where there is none.

    Nobody else can write it meanwhile; with `reading` somebody else may, and nothing is written here. Without
    `learning` no features are computed. UsageError where the database is of other stores, classes or choices.
    """
    out = Path(out)
    if not out.exists() and (reading or not options.classes):
        what = "" if reading else ": say of which --classes they are to be"
        raise UsageError(f"There are no labels at '{out}' yet{what}.")
    patches = open_patches(stores)
    if not reading:
        check_writable(out.parent)
    with nullcontext() if reading else locked(out, what=f"'{out}'"):
        database = Database(out, reading=reading)
        try:
            patches, plan = _agreed(patches, database, options)
            for name, sentence in patches.problems:
                reporter.warn(f"{name} is left out: {sentence}")
            selected = selection_of(patches, options.first) if options.first else []
            session = Session(
                patches,
                database,
                plan,
                order=options.order,
                every=options.every,
                learning=_learning(patches, database, options, reporter) if learning else None,
                suggestions=suggestions_of(patches, options.from_predictions, plan.classes)
                if options.from_predictions
                else None,
                first=[patch for patch in selected if patch is not None],
            )
            if lost := len(selected) - len(session.first):
                reporter.warn(
                    f"{lost:,} of the {len(selected):,} selected patches are not asked for: they are of test "
                    "patients, of other stores, or there twice."
                )
            if not len(session):
                raise UsageError(
                    "All patches are of test patients, so that none is left to label: check --test."
                )
            yield session
        finally:
            database.close()


@contextmanager
def learning_meanwhile(session: Session) -> Iterator[None]:
    """Within the block a thread fits the probe whenever it is due."""
    ending = threading.Event()

    def work() -> None:
        while True:
            session.due.wait()
            if ending.is_set():
                return
            session.due.clear()
            try:
                session.refit()
            except (WsitoolError, ValueError, ArithmeticError) as error:
                session.judgement = f"the probe could not be fitted ({one_sentence(error)})"

    thread = threading.Thread(target=work, name="probe", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        session.due.set()
        thread.join()


def _learning(
    patches: Patches, database: Database, options: LabelOptions, reporter: Reporter
) -> Learning | None:
    if options.encoder is None and options.features is None:
        return None
    # It brings torch, which takes longer than all the rest.
    from wsitool.labelling.features import features_of_patches

    return features_of_patches(patches, database, options, reporter)


def _agreed(patches: Patches, database: Database, options: LabelOptions) -> tuple[Patches, Plan]:
    """Patches with the database's numbers, and its plan; a new database is begun with that of `options`."""
    about = database.about
    patches, records = numbered(patches, database.stores)
    test = sorted(groups_of_test(options.test, patches.collection))
    asked = {
        "classes": list(options.classes) or None,
        "seed": options.seed,
        "shared": options.shared,
        "test": test or None,
    }
    if not about:
        if not options.classes:
            raise UsageError("These labels are new: say of which --classes they are to be.")
        if database.reading:
            raise UsageError(f"There are no labels in '{database.path}' yet.")
        about = {"classes": list(options.classes), "test": test}
        about |= {"seed": options.seed or 0, "shared": _SHARED if options.shared is None else options.shared}
        database.begin(about, records)
    elif not database.reading:
        for record in records:
            database.mend(record)
    for name, value in asked.items():
        if value is not None and value != about[name]:
            raise UsageError(
                f"'{database.path}' was made with other --{name} ({_shown(about[name])}): give the same or "
                "none, or another --out."
            )
    return patches, Plan(
        classes=tuple(about["classes"]), seed=about["seed"], shared=about["shared"], test=tuple(about["test"])
    )


def _shown(value: object) -> str:
    if not isinstance(value, list):
        return f"{value:g}" if isinstance(value, float) else str(value)
    more = f" and {len(value) - 5} more" if len(value) > 5 else ""
    return (", ".join(map(str, value[:5])) or "none") + more
