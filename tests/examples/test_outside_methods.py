"""DINO and SupCon can be written outside: of public names alone, on one screen, keeping every rule."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import lightly.loss
import outside_dino
import pytest
import torch
from outside_dino import OutsideDINO, cosines

from wsitool import api
from wsitool.testing import check_method
from wsitool.testing.subject import Subject
from wsitool_plugins import supcon

SMALL: dict[str, Any] = {"outputs": 32, "hidden_dim": 16, "local_crops": 2}


@pytest.mark.parametrize("module", [outside_dino, supcon])
def test_the_file_is_one_screen_of_public_names(module: Any) -> None:
    text = Path(module.__file__).read_text()
    assert len(text.splitlines()) <= 100
    nodes = list(ast.walk(ast.parse(text)))
    imported = {
        (node.module, alias.name)
        for node in nodes
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("wsitool")
        for alias in node.names
    }
    assert imported <= {("wsitool", "api")} | {("wsitool.api", name) for name in api.__all__}
    attributes = {(ast.unparse(node.value), node.attr) for node in nodes if isinstance(node, ast.Attribute)}
    assert {name for of, name in attributes if of == "api"} <= set(api.__all__)
    # nor a private one of what it is given
    assert not [name for _, name in attributes if name.startswith("_") and not name.startswith("__")]


def test_dino_from_outside_keeps_every_rule() -> None:
    results = check_method(OutsideDINO, params=SMALL)
    assert len(results) == 17 and [each.message for each in results if not each.passed] == []


def test_its_loss_is_lightlys() -> None:
    subject = Subject(cls=OutsideDINO, params=SMALL)
    method: Any = subject.build()
    views = subject.views(method, subject.patches(6))
    with torch.no_grad():
        taught = cosines(method.teacher_head(method.teacher(views["large"])), method.teacher_last)
        said = [
            cosines(method.head(method.backbone(part)), method.last)
            for name in ("large", "small")
            for part in views[name].chunk(2)
        ]
    theirs = lightly.loss.DINOLoss(output_dim=32, teacher_temp=0.04, student_temp=0.1)
    expected = theirs(list(taught.chunk(2)), said)
    torch.testing.assert_close(method.loss(views).loss.detach(), expected, atol=1e-5, rtol=1e-5)
