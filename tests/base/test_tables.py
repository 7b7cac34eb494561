"""The one reader of tables: every way in which Excel saves a table gives the same rows."""

from __future__ import annotations

import csv
import os
import unicodedata
from pathlib import Path

import pytest

from wsitool.base.paths import located
from wsitool.base.tables import Table, decimal, read_table, table_bytes
from wsitool.base.text_files import MOST_BYTES, decode_text
from wsitool.errors import LabelError, UsageError

ROWS = [["한글.svs", "0.5", "환자 1"], ["b, c.svs", "", 'say "x"\nagain']]
PLAIN = "path,mpp,group\r\n" + '한글.svs,0.5,환자 1\r\n"b, c.svs",,"say ""x""\nagain"\r\n'
SEMICOLONS = 'path;mpp;group\r\n한글.svs;0.5;환자 1\r\nb, c.svs;;"say ""x""\nagain"\r\n'


class Listener:
    """A reporter that remembers what was said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)

    warn = say


def _read(path: Path, data: bytes | str, listener: Listener | None = None, **options: object) -> Table:
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    more = {} if listener is None else {"reporter": listener}
    return read_table(path, needs=("path",), knows=("mpp", "group"), **more, **options)  # type: ignore[arg-type]


WAYS = {
    "plain": PLAIN.encode(),
    "mark": PLAIN.encode("utf-8-sig"),
    "utf-16-le": b"\xff\xfe" + PLAIN.encode("utf-16-le"),
    "utf-16-be": b"\xfe\xff" + PLAIN.encode("utf-16-be"),
    "utf-32": PLAIN.encode("utf-32"),
    "cp949": PLAIN.encode("cp949"),
    "semicolons": SEMICOLONS.encode(),
    "cp949 semicolons": SEMICOLONS.encode("cp949"),
    "tabs": SEMICOLONS.replace(";", "\t").encode(),
    "for excel": b"sep=;\r\n" + SEMICOLONS.encode(),
    "old mac": PLAIN.replace("\r\n", "\r").encode(),
    "headers": PLAIN.replace("path,mpp", ' Path ,"MPP "').encode(),
    "trailing": PLAIN.replace("\r\n", ",,\r\n").encode() + b",,,,\r\n\r\n \r\n",
    "padded": PLAIN.replace("한글.svs", "\xa0 한글.svs ").replace("0.5", "  0.5\t").encode(),
    "decomposed": unicodedata.normalize("NFD", PLAIN).encode(),
    "as text": PLAIN.replace("0.5", '"=""0.5"""').encode(),
    "spaces": b"path, mpp, group\n\xed\x95\x9c\xea\xb8\x80.svs, 0.5, \xed\x99\x98\xec\x9e\x90 1\n"
    b'"b, c.svs", , "say ""x""\nagain"\n',
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_gives_the_same_rows(tmp_path: Path, way: str) -> None:
    listener = Listener()
    table = _read(tmp_path / "t.csv", WAYS[way], listener)
    rows = [[row[column] for column in ("path", "mpp", "group")] for row in table.rows]
    assert rows == ROWS and not any(row.problem for row in table.rows)
    assert bool(listener.said) is not table.plain and (way == "plain") <= table.plain
    assert len(listener.said) <= 1 and all("\n" not in message for message in listener.said)


def test_what_is_found_is_stated(tmp_path: Path) -> None:
    listener = Listener()
    _read(tmp_path / "t.csv", WAYS["cp949 semicolons"], listener)
    assert listener.said == [
        f"The table '{tmp_path / 't.csv'}' is read as cp949 with semicolons: if names look wrong, save it as "
        "CSV UTF-8."
    ]


@pytest.mark.parametrize(
    ("text", "codec"),
    [
        ("Zürich, Größe, Ärzte", "cp1252"),
        ("KÄSE", "cp1252"),
        ("École – “naïve”", "cp1252"),
        ("Łódź", None),
        ("한글 슬라이드", "cp949"),
        ("환자A, 양성", "cp949"),
        ("뷁 한글 똠방각하", "cp949"),
    ],
)
def test_the_two_windows_encodings_are_told_apart(text: str, codec: str | None) -> None:
    assert decode_text(text.encode()) == (text, "UTF-8")
    if codec is not None:
        assert decode_text(text.encode(codec)) == (text, codec)


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    for data in (bytes(range(128, 256)) * 3, "日本語のスライド".encode("shift_jis"), b"\xff\xfe\x00\xd8"):
        with pytest.raises(UsageError, match=r"its encoding is unknown.*Save it as CSV UTF-8"):
            _read(tmp_path / "t.csv", data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            "file,mpp\nx,1\n",
            r"needs a column 'path' \(and may have mpp, group\): it lacks path, and has file, mpp",
        ),
        ("", "has none"),
        ("path,Path \nx,y\n", "has the column 'path' more than once"),
        ('path\n"x\ny\n', "Line 2 .*quotation mark that is never closed"),
        ('"pa"th,x\n', "The header .*cannot be read"),
        (b"PK\x03\x04", "is a workbook"),
        (b"\xd0\xcf\x11\xe0", "is a workbook"),
    ],
)
def test_tables_that_cannot_be_used_are_one_sentence(tmp_path: Path, data: bytes | str, message: str) -> None:
    with pytest.raises(LabelError, match=message) as caught:
        _read(tmp_path / "t.csv", data, error=LabelError)
    assert "\n" not in str(caught.value)


def test_pipes_folders_and_giants_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "giant").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    for name, message in (("pipe", "no regular file"), (".", "no regular file"), ("giant", "split it")):
        with pytest.raises(UsageError, match=message):
            read_table(tmp_path / name, needs=("path",))
    with pytest.raises(UsageError, match="No such file"):
        read_table(tmp_path / "none", needs=("path",))


def test_a_bad_row_is_its_own_problem(tmp_path: Path) -> None:
    text = 'path,mpp\na.svs,1\nb.svs,1,2\n"c"d,1\n=A1,1\ne.svs,=B2\nf\0g.svs,1\nh.svs\ni.svs,2\n'
    problems = {row.line: row.problem for row in _read(tmp_path / "t.csv", text).rows}
    assert not any(problems[line] for line in (2, 8, 9))
    assert "3 cells and the header 2" in problems[3]
    assert "no row of a CSV" in problems[4]
    assert "path is a formula, '=A1'" in problems[5] and "mpp is a formula" in problems[6]
    assert "NUL" in problems[7]


@pytest.mark.parametrize("text", ["0.499", "0,499", " 12,5 ", "1e-3", "1234,567", "-1", "+.5"])
def test_numbers(text: str) -> None:
    assert decimal(text) == float(text.replace(",", "."))


@pytest.mark.parametrize("text", ["1,234", "12,345", "nan", "inf", "1_0", "0.5 um", "", "1.234,5", "0x1"])
def test_what_is_no_number_or_two(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no number|use a decimal point"):
        decimal(text)


VALUES = [
    "=1+1",
    "+x",
    "-x",
    "@x",
    "'=x",
    "''=x",
    "'x",
    "-",
    "\tx",
    "-1",
    "+1.5e-3",
    "1",
    "a,b",
    'a"b',
    "a\nb",
]


def test_written_values_come_back_and_run_nowhere(tmp_path: Path) -> None:
    data = table_bytes([["path", "mpp"], *([value, value] for value in VALUES)])
    table = _read(tmp_path / "t.csv", data, exact=True)
    assert table.plain and [row.cells["path"] for row in table.rows] == VALUES
    cells = [row[0] for row in csv.reader(data.decode().splitlines(keepends=True))]
    assert not [cell for cell in cells if cell[0] in "=+-@\t\r" and cell not in ("-1", "+1.5e-3")]
    assert "-1" in cells and b"\r" not in data


def test_none_is_empty_and_strange_bytes_are_shown() -> None:
    assert table_bytes([["a"], [None, os.fsdecode(b"x\xb0"), float("-inf")]]) == b"a\n,x\\xb0,-inf\n"


@pytest.mark.parametrize("there", ["NFC", "NFD"])
def test_files_are_found_however_their_name_is_composed(tmp_path: Path, there: str) -> None:
    name = unicodedata.normalize(there, "슬라이드 é.svs")  # type: ignore[arg-type]
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / name).touch()
    for form in ("NFC", "NFD"):
        spelled = unicodedata.normalize(form, name)  # type: ignore[arg-type]
        for text in (f"sub/{spelled}", f"sub\\{spelled}", f"sub/{spelled}".replace(" ", "\xa0")):
            if "\xa0" not in text or form == there:
                assert located(tmp_path, text).exists(), text
    assert located(tmp_path, "absent") == tmp_path / "absent"
