"""What no number on the command line may be."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from wsitool.cli import main


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("tile a.svs --out o --max-pen nan", "'--max-pen': expected a finite number, got nan"),
        ("import folder --out o --mpp inf", "'--mpp': expected a finite number, got inf"),
        ("refilter . --max-fold 1e999", "'--max-fold': expected a finite number, got inf"),
        ("predict . a.svs --out o --level 99999999999", "'--level': expected a whole number up to"),
        ("experiment --train {here} --out o --pretrain-lr 1e-4,inf", "'--pretrain-lr': expected a finite"),
        ("experiment --train {here} --out o --fractions 5,nan", "'--fractions': expected a finite"),
        ("classify {here} --out o --c nan", "'--c': expected a finite number"),
        ("embed {here} --encoder random --out o --seed -1", "--seed must be at least 0, got -1"),
    ],
)
def test_a_number_that_cannot_be_is_named(words: str, sentence: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, words.format(here=tmp_path).split())
    assert result.exit_code == 2
    assert sentence in " ".join(result.output.split()), result.output
