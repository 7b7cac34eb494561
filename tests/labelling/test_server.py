"""What the server answers, and to whom; asked as an ASGI application, behind its guard."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from labelling.conftest import Bench
from PIL import Image

from wsitool.cli import main
from wsitool.labelling.app import make_app
from wsitool.labelling.session import Session
from wsitool.viewer.guard import Guard

HOST, TOKEN = "127.0.0.1:8000", "0123456789abcdef"


class Client:
    """Asks an application as a browser with the token does."""

    def __init__(self, session: Session, annotator: str | None = None) -> None:
        app = make_app(session, annotator=annotator)
        self._app = Guard(app, hosts=frozenset({HOST}), token=TOKEN, cookie="c", may_change=True)

    def ask(
        self, method: str, path: str, body: bytes = b"", **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        told = {"host": HOST, "cookie": f"c={TOKEN}", "content-type": "application/json", **headers}
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "http_version": "1.1",
            "server": ("127.0.0.1", 8000),
            "client": ("127.0.0.1", 1),
            "headers": [(name.encode(), value.encode()) for name, value in told.items() if value],
        }
        sent: list[dict[str, Any]] = []
        coming: list[dict[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            return coming.pop() if coming else {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        asyncio.run(self._app(scope, receive, send))
        got = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return sent[0]["status"], got, b"".join(message.get("body", b"") for message in sent[1:])

    def post(self, what: str, status: int = 200, **values: Any) -> Any:
        body = json.dumps({"client": "tab", "annotator": "ann", **values}).encode()
        got, _, answer = self.ask("POST", f"/api/label/{what}", body)
        assert got == status, answer
        return json.loads(answer)


@pytest.fixture
def session(bench: Bench, tmp_path: Path) -> Session:
    return bench.session(tmp_path / "a.db", learns=True, suggestions=dict.fromkeys(range(144), (0, 0.9)))


def _answer(patch: dict[str, Any], **values: Any) -> dict[str, Any]:
    said = {"id": f"{patch['store']}-{patch['row']}", "kind": "label", "label": patch["row"] % 2, "note": ""}
    return said | {name: patch[name] for name in ("store", "row", "chosen")} | values


def test_an_answer_brings_the_next_patch(session: Session, bench: Bench) -> None:
    client = Client(session)
    told = client.post("next")
    patch = told["patch"]
    assert client.post("next")["patch"] == patch and patch["suggestion"] == {"label": 0, "probability": 0.9}
    status, headers, png = client.ask("GET", f"/api/label/patches/{patch['store']}/{patch['row']}")
    number = bench.patches.number(patch["store"], patch["row"])
    with Image.open(io.BytesIO(png)) as picture:
        assert status == 200 and headers["content-type"] == "image/png"
        assert np.array_equal(np.asarray(picture), bench.patches.collection.read([number])[0])
    for _ in range(2):  # sent again, as its acknowledgement was lost
        after = client.post("answer", **_answer(patch, note="Fält <b>"))
        assert after["patch"] != patch and after["state"]["labels"] == 1 == len(session.database.answers())
    assert session.database.answers()[0].suggested == 0
    back = client.post("undo", id=after["state"]["last"])
    assert {**back["patch"], "before": None} == patch and back["patch"]["before"]["note"] == "Fält <b>"


def test_figures_come_once_there_are_enough_labels(session: Session) -> None:
    client = Client(session, annotator="ann")
    told = client.post("next", annotator="somebody else")
    assert told["state"]["figures"]["accuracy"] is None
    for labels in (10, 20, 30, 40):
        while told["state"]["labels"] < labels:
            told = client.post("answer", **_answer(told["patch"]))
        assert session.due.is_set()
        session.refit()
    told = client.post("state")
    figures = told["figures"]
    assert figures["accuracy"]["value"] > 0.8 and len(figures["curve"]) == 4 and figures["gain"] is not None
    assert told["mine"] == 40 and sum(one["count"] for one in told["classes"]) == 40
    assert [one["name"] for one in told["annotators"]] == ["ann"]


def test_downloads_at_any_moment(session: Session) -> None:
    client = Client(session)
    told = client.post("next")
    client.post("answer", **_answer(told["patch"]))
    status, headers, data = client.ask("GET", "/api/label/labels.csv")
    assert status == 200 and headers["content-disposition"] == 'attachment; filename="labels.csv"'
    assert len(data.decode().splitlines()) == 2
    status, headers, data = client.ask("GET", "/api/label/labels.geojson")
    assert status == 200 and len(json.loads(data)["features"]) == 1


def test_a_full_disk_is_said_at_once(session: Session) -> None:
    client = Client(session)
    patch = client.post("next")["patch"]
    pages = session.database.connection.execute("PRAGMA page_count").fetchone()[0]
    session.database.connection.execute(f"PRAGMA max_page_count = {pages}")
    told: Any = {}
    for number in range(50):
        told = client.ask("POST", "/api/label/answer", _body(patch, id=f"{number}", note="x" * 3000))
        if told[0] != 200:
            break
        patch = json.loads(told[2])["patch"]
    assert told[0] == 507 and "the disk is full" in json.loads(told[2])["problem"]
    assert client.post("next")["patch"] == patch  # it is still there to be answered
    session.database.connection.execute("PRAGMA max_page_count = 100000")
    assert client.post("answer", **_answer(patch))["patch"] != patch


def _body(patch: dict[str, Any], **values: Any) -> bytes:
    return json.dumps({"client": "tab", "annotator": "ann", **_answer(patch, **values)}).encode()


def test_a_patch_that_cannot_be_read_has_its_sentence(
    session: Session, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wsitool.errors import CorruptStoreError
    from wsitool.store.reader import Reader

    client = Client(session)
    patch = client.post("next")["patch"]

    def broken(*_: object) -> object:
        raise CorruptStoreError("store: patch 3 cannot be read (torn): write the store again.")

    with monkeypatch.context() as damage:
        damage.setattr(Reader, "read", broken)
        told = client.post("answer", **_answer(patch))["patch"]
        assert told["problem"].startswith("store: patch 3 cannot be read")
    assert client.post("answer", 400, **_answer(told, kind="label", label=None))["problem"]
    after = client.post("answer", **_answer(told, kind="damaged", label=None))
    assert after["patch"]["problem"] == "" and after["state"]["labels"] == 1


@pytest.mark.parametrize(
    ("values", "status"),
    [
        ({"store": 99}, 404),
        ({"row": "1"}, 404),
        ({"row": True}, 404),
        ({"kind": "guess"}, 400),
        ({"chosen": "import"}, 400),
        ({"label": 7}, 400),
        ({"label": 1.0}, 400),
        ({"label": None}, 400),
        ({"id": ""}, 400),
        ({"id": "x" * 65}, 400),
        ({"annotator": "import"}, 400),
        ({"annotator": "two\nlines"}, 400),
        ({"note": ["x"]}, 400),
        ({"note": "x" * 4001}, 400),
        ({"note": "\ud800"}, 400),
        ({"client": None}, 400),
    ],
)
def test_what_is_no_answer_is_refused_and_nothing_kept(
    session: Session, values: dict[str, Any], status: int
) -> None:
    client = Client(session)
    patch = client.post("next")["patch"]
    told = client.post("answer", status, **_answer(patch) | values)
    assert told["problem"].endswith(".") and session.database.answers() == []


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status"),
    [
        ("POST", "/api/label/next", b"{}", {"cookie": ""}, 403),
        ("POST", "/api/label/next", b"{}", {"cookie": "c=0123456789abcdeg"}, 403),
        ("POST", "/api/label/next", b"{}", {"origin": "http://127.0.0.1:9000"}, 403),
        ("POST", "/api/label/next", b"{}", {"origin": "null"}, 403),
        ("POST", "/api/label/next", b"{}", {"host": "evil.example:8000"}, 421),
        ("POST", "/api/label/next", b"{}", {"content-type": "text/plain"}, 415),
        ("POST", "/api/label/next", b"[]", {}, 400),
        ("POST", "/api/label/next", b"[" * 60_000, {}, 400),
        ("POST", "/api/label/next", b" " * 70_000, {}, 413),
        ("GET", "/api/label/next", b"", {}, 405),
        ("PUT", "/api/label/next", b"{}", {}, 405),
        ("GET", "/api/label/patches/0/99", b"", {}, 404),
        ("GET", "/static/../app.py", b"", {}, 404),
        ("GET", "/", b"", {"cookie": ""}, 403),
    ],
)
def test_strangers_and_nonsense_get_nothing(
    session: Session, method: str, path: str, body: bytes, headers: dict[str, str], status: int
) -> None:
    got, answer_headers, answer = Client(session).ask(method, path, body, **headers)
    assert got == status and b"Traceback" not in answer
    assert "unsafe" not in answer_headers["content-security-policy"]


def test_its_own_page_may_change_something(session: Session) -> None:
    body = json.dumps({"client": "tab", "annotator": "ann"}).encode()
    assert Client(session).ask("POST", "/api/label/next", body, origin=f"http://{HOST}")[0] == 200
    status, _, page = Client(session).ask("GET", "/")
    assert status == 200 and b"<script>" not in page and b"http" not in page
    assert json.loads(Client(session).ask("GET", "/api/label/about")[2])["annotator"] is None


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--host", "0.0.0.0"], "lets other machines ask"),
        (["--token", "short"], "--token needs at least 16"),
        (["--classes", "one"], "at least two different names"),
    ],
)
def test_wrong_usage_is_one_sentence_before_anything_is_made(
    bench: Bench, tmp_path: Path, words: list[str], sentence: str
) -> None:
    out = tmp_path / "a.db"
    command = ["label", str(bench.folder), "--classes", "a,b", "--out", str(out), "--no-browser", *words]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 2 and sentence in result.output and not out.exists()
