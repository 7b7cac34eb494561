from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from skimage.io import imsave

from wsitool.report.page import Page


class _Outline(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def _outline(page: Page) -> _Outline:
    outline = _Outline()
    outline.feed(page.html())
    return outline


def test_text_is_escaped() -> None:
    evil = "<script>alert(1)</script>"
    page = Page(evil, evil).section(evil, evil).table([evil], [[evil]], evil).code(evil).note(evil)
    outline = _outline(page)
    assert "script" not in [tag for tag, _ in outline.tags]
    # title, h1, intro, heading, text, header, cell, caption, code, note
    assert outline.text.count(evil) == 10


def test_images_are_inlined_and_nothing_is_fetched(tmp_path: Path) -> None:
    imsave(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8), check_contrast=False)
    imsave(tmp_path / "a.jpg", np.zeros((4, 4, 3), np.uint8), check_contrast=False)
    page = Page("t").section("s").image(tmp_path / "a.png", "one").image((tmp_path / "a.jpg").read_bytes())
    sources = [attrs["src"] or "" for tag, attrs in _outline(page).tags if tag == "img"]
    assert [source.split(";")[0] for source in sources] == ["data:image/png", "data:image/jpeg"]
    assert "http" not in page.html()


def test_what_is_no_image_is_refused() -> None:
    with pytest.raises(ValueError, match="PNG, JPEG, GIF or WebP"):
        Page("t").image(b"hello")


def test_number_columns_are_flush_right_and_ragged_rows_refused() -> None:
    page = Page("t").table(["arm", "accuracy"], [["simclr", ".889"], ["none", "88.9 % [85.1, 91.0]"]])
    cells = [attrs.get("class") for tag, attrs in _outline(page).tags if tag == "td"]
    assert cells == [None, "number", None, "number"]
    with pytest.raises(ValueError, match="2 cells"):
        Page("t").table(["a", "b"], [["1"]])


def test_write_leaves_one_file(tmp_path: Path) -> None:
    path = Page("Ünïcode").write(tmp_path / "deep" / "page.html")
    assert [found.name for found in path.parent.iterdir()] == ["page.html"]
    assert "Ünïcode" in path.read_text(encoding="utf-8")
