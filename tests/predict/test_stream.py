"""Patches of a slide straight from its reader."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsitool.errors import SlideError
from wsitool.predict.stream import open_stream
from wsitool.slides.readers import open_slide
from wsitool.slides.spec import TileSpec
from wsitool.testing.synthetic import synthetic_slide


def test_a_slide_that_changes_while_it_is_read_fails(tmp_path: Path) -> None:
    """Verdicts on a mix of two files would be said of neither."""
    path = synthetic_slide(tmp_path / "s.svs", size=(400, 300), levels=(1,))
    spec = TileSpec(level=0, patch_size=64, min_tissue=0)
    with open_slide(path) as slide:
        assert sum(len(batch.coords) for batch in open_stream(slide, spec).batches(4)) == 24
        batches = open_stream(slide, spec).batches(4)
        next(batches)
        path.write_bytes(path.read_bytes() + b"more")
        with pytest.raises(SlideError, match="changed while it was read"):
            list(batches)
