"""`tile --dataset paip` on small slides drawn in PAIP's layout; the real files may not be handed on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner

from wsitool.cli import main
from wsitool.store.opening import open_store
from wsitool.testing import synthetic_slide

SIZE = 600


def _annotation(number: int, x1: int) -> str:
    corners = ((0, 0), (x1, 0), (x1, SIZE), (0, SIZE))
    vertices = "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in corners)
    region = f'<Region Id="1" Type="0" NegativeROA="0"><Vertices>{vertices}</Vertices></Region>'
    return f'<Annotation Id="{number}" Name="" Type="4"><Regions>{region}</Regions></Annotation>'


def _mask(path: Path, x1: int) -> None:
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[:, :x1] = 1
    tifffile.imwrite(path, mask, compression="lzw")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two slides; the viable mask of the second covers less than its outline."""
    folder = tmp_path / "paip"
    folder.mkdir()
    for number, viable in ((1, 300), (2, 240)):
        name = f"01_01_00{number}"
        synthetic_slide(folder / f"{name}.svs", size=(SIZE, SIZE), mpp=0.5, glass=0.02, seed=number)
        outlines = _annotation(1, 500) + _annotation(2, 300)
        (folder / f"{name}.xml").write_text(f'<Annotations MicronsPerPixel="0.5">{outlines}</Annotations>')
        _mask(folder / f"{name}_whole.tif", 500)
        _mask(folder / f"{name}_viable.tif", viable)
    return folder


def _tile(folder: Path, *words: str) -> tuple[int, str]:
    args = ["tile", str(folder), "--out", str(folder.parent / "out"), "--level", "0", "--patch-size", "100"]
    result = CliRunner().invoke(main, [*args, *words])
    return result.exit_code, result.output


def test_slides_outlines_and_masks_are_paired(folder: Path) -> None:
    map_file = folder.parent / "map.csv"
    map_file.write_text("name,label\n1,tumor\n2,viable\n")
    code, output = _tile(folder, "--dataset", "paip", "--label-map", str(map_file), "--workers", "1")
    assert code == 0, output
    assert sorted(path.stem for path in (folder.parent / "out").glob("*.h5")) == ["01_01_001", "01_01_002"]
    assert "_viable.tif and the outlines of Id 2 disagree on 20.0% of their area" in output
    assert output.count("disagree") == 1 and "Note on 01_01_002" in output
    with open_store(folder.parent / "out" / "01_01_001.h5") as store:
        x = store.coords[:, 0]
        expected = np.where(x < 300, 1, np.where(x < 500, 0, -1))
        assert store.meta.classes == ("tumor", "viable")
        np.testing.assert_array_equal(store.labels, expected)
    code, output = _tile(folder, "--dataset", "paip", "--annotations", str(folder))
    assert code == 2 and "leave out --annotations" in output


def test_a_mask_is_the_tissue_and_an_edited_one_is_noticed(folder: Path) -> None:
    slide = folder / "01_01_001.svs"
    words = ("--tissue", f"mask:{folder}/{{slide}}_viable.tif", "--max-white", "1")
    code, output = _tile(slide, *words)
    assert code == 0, output
    with open_store(folder / "out" / "01_01_001.h5") as store:
        assert set(store.coords[:, 0].tolist()) == {0, 100, 200}
    code, output = _tile(slide, *words)
    assert code == 0 and "skipped" in output
    _mask(folder / "01_01_001_viable.tif", 500)
    code, output = _tile(slide, *words)
    assert code == 1 and "skipped" not in output
