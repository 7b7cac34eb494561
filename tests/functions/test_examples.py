"""Every public name has a docstring with an example, and the example runs."""

from __future__ import annotations

import doctest
from pathlib import Path

import pytest

import wsitool


@pytest.mark.usefixtures("material")
@pytest.mark.parametrize("name", wsitool.__all__)
def test_the_example_runs(name: str) -> None:
    names = {"wsitool": wsitool, "Path": Path}
    docstring = getattr(wsitool, name).__doc__ or ""
    example = doctest.DocTestParser().get_doctest(docstring, names, name, None, 0)
    assert example.examples, f"wsitool.{name} has no example"
    told: list[str] = []
    result = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(example, out=told.append)
    assert not result.failed, "".join(told)
