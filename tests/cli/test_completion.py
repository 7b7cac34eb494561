"""What a shell is offered: names that only wsitool knows, and files for the rest."""

from __future__ import annotations

from pathlib import Path

import pytest
from classify_stores import labelled_store
from click.shell_completion import BashComplete

from wsitool.cli import main
from wsitool.store.opening import open_store


def _offered(*words: str) -> list[tuple[str, str]]:
    *typed, last = words
    items = BashComplete(main, {}, "wsitool", "_WSITOOL_COMPLETE").get_completions(list(typed), last)
    return [(item.type, item.value) for item in items]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("pretrain", "x", "--method", "sim"), {"simclr", "simsiam"}),
        (("views", "x", "--method", "rot"), {"rotation"}),
        (("classify", "x", "--encoder", "u"), {"uni", "uni2-h"}),
        (("embed", "x", "--encoder", "ima"), {"imagenet"}),
        (("pretrain", "x", "--init", "ran"), {"random"}),
        (("classify", "x", "--head", ""), {"auto", "finetune", "linear", "knn", "mean", "attention"}),
        (("tile", "x", "--format", ""), {"hdf5", "zarr"}),
        (("pretr",), {"pretrain"}),
    ],
)
def test_names_are_offered(words: tuple[str, ...], expected: set[str]) -> None:
    values = {value for _, value in _offered(*words)}
    assert expected <= values and all(value.startswith(words[-1]) for value in values)


def test_files_where_no_name_begins_so() -> None:
    assert _offered("classify", "x", "--encoder", "runs/k") == [("file", "runs/k")]


def test_classes_are_those_of_the_stores_and_the_last_of_a_list_is_completed(tmp_path: Path) -> None:
    store = str(labelled_store(tmp_path / "a.h5", per_class=1))
    with open_store(store) as opened:
        first, second, *_ = opened.meta.classes
    assert _offered("label", store, "--classes", first) == [("plain", first)]
    assert _offered("label", store, "--classes", f"{first},{second[:2]}") == [("plain", f"{first},{second}")]
    assert _offered("label", str(tmp_path / "none"), "--classes", "a") == [("file", "a")]
