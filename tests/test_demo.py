"""The demo's commands exist as typed, and the demo itself runs to its page."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from wsitool.cli import COMMANDS, main
from wsitool.cli.demo import demo_commands, what_next


def test_commands_are_real_ones(tmp_path: Path) -> None:
    for why, argv in demo_commands(tmp_path / "with space"):
        assert why.endswith(".")
        assert argv[0] in COMMANDS
        assert any(word.startswith(str(tmp_path / "with space")) for word in argv)


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    result = CliRunner().invoke(main, ["demo", "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert "is not empty" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("there", [True, False])
def test_it_ends_by_naming_the_pages_and_the_viewer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    for name in ("kidney", "classifier"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.html").touch()
    monkeypatch.setattr("wsitool.cli.demo.find_spec", lambda name: object() if there else None)
    pages, viewer = what_next(tmp_path)
    assert "classifier/report.html, kidney/report.html" in pages
    assert viewer.endswith(f"wsitool view {tmp_path}" if there else "pip install 'wsitool[view]'")


@pytest.mark.slow
def test_demo_ends_with_a_self_contained_page(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["demo", "--out", str(tmp_path / "demo")], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    page = (tmp_path / "demo" / "demo.html").read_text()
    assert page.count("data:image/") >= 8
    assert "http://" not in page.replace("http://www.w3.org", "")
    for _, argv in demo_commands(tmp_path / "demo"):
        assert " ".join(argv[:2]) in page
    assert "pretrained kidney -&gt; breast" in page
    for folder in ("kidney", "breast", "encoder-kidney", "classifier"):
        assert (
            f"{folder}/report.html" in result.output
            and (tmp_path / "demo" / folder / "report.html").is_file()
        )
    assert "wsitool view" in result.output
