"""`--tissue onnx:FILE`: a network of three numbers finds what is pink; a broken one is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from wsitool.errors import PluginError, UsageError
from wsitool.slides.masks import check_tissue, find_tissue
from wsitool.slides.onnx_tissue import onnx_mpp, onnx_tissue
from wsitool.slides.readers import open_slide
from wsitool.testing import synthetic_slide

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def _network(path: Path, *, mpp: str = "", sigmoid: bool = True) -> Path:
    """Red minus green, above a tenth."""
    helper, kinds = onnx.helper, onnx.TensorProto
    weight = np.array([40.0, -40.0, 0.0], np.float32).reshape(1, 3, 1, 1)
    nodes = [helper.make_node("Conv", ["image", "w", "b"], ["sum" if sigmoid else "share"])]
    nodes += [helper.make_node("Sigmoid", ["sum"], ["share"])] if sigmoid else []
    graph = helper.make_graph(
        nodes,
        "tissue",
        [helper.make_tensor_value_info("image", kinds.FLOAT, [1, 3, "h", "w"])],
        [helper.make_tensor_value_info("share", kinds.FLOAT, [1, 1, "h", "w"])],
        [onnx.numpy_helper.from_array(weight, "w"), onnx.numpy_helper.from_array(np.float32([-4]), "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if mpp:
        helper.set_model_props(model, {"mpp": mpp})
    onnx.save(model, str(path))
    return path


def test_a_network_finds_tissue_on_the_thumbnail_of_its_mpp(tmp_path: Path) -> None:
    slide = synthetic_slide(tmp_path / "a.svs", size=(800, 600), mpp=0.5, glass=0.3)
    path = _network(tmp_path / "net.onnx", mpp="4")
    check_tissue(f"onnx:{path}")
    with open_slide(slide) as opened:
        mask = find_tissue(opened, f"onnx:{path}")
    assert onnx_mpp(str(path)) == 4 and mask.downsample == (8.0, 8.0)
    picture = mask.thumbnail.astype(int)
    np.testing.assert_array_equal(mask.mask, 40 * (picture[..., 0] - picture[..., 1]) / 255 > 4)
    assert 0.1 < mask.mask.mean() < 0.95


def test_what_breaks_the_contract_is_named(tmp_path: Path) -> None:
    picture = np.full((40, 50, 3), (200, 100, 180), np.uint8)
    with pytest.raises(PluginError, match="export it with its softmax"):
        onnx_tissue(str(_network(tmp_path / "raw.onnx", sigmoid=False)), picture)
    with pytest.raises(PluginError, match="states the mpp '0'"):
        onnx_mpp(str(_network(tmp_path / "mpp.onnx", mpp="0")))
    (tmp_path / "bad.onnx").write_bytes(b"no network")
    with pytest.raises(PluginError, match="no ONNX file"):
        check_tissue(f"onnx:{tmp_path / 'bad.onnx'}")
    with pytest.raises(UsageError, match="There is no file"):
        check_tissue(f"onnx:{tmp_path / 'none.onnx'}")
