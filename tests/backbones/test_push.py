"""Pushing an exported encoder, to a server on this machine that answers as a hub does."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from wsitool.backbones.build import build_backbone
from wsitool.backbones.export import export_encoder
from wsitool.backbones.files import save_encoder
from wsitool.cli.export_encoder import command
from wsitool.errors import EncoderError, UsageError

pytest.importorskip("timm", reason="the extra [timm] is not installed")
hub = pytest.importorskip("huggingface_hub", reason="comes with the extra [timm]")


class Hub(ThreadingHTTPServer):
    """Takes every file as it is, in the commit itself; refuses where `refuses` says so."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.made: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.refuses = False

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_HEAD(self) -> None:
        self._answer(200, {})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.refuses:
            self._answer(403, {"error": "You have no right to write there"})
        elif self.path == "/api/repos/create":
            self.server.made.append(json.loads(body))
            self._answer(200, {"url": f"{self.server.address}/lab/mine"})
        elif self.path == "/api/validate-yaml":  # of the card
            self._answer(200, {"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            self._answer(200, {"files": files})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self._answer(200, {"commitUrl": f"{self.server.address}/lab/mine/commit/1", "commitOid": "1"})
        else:
            self._answer(404, {"error": self.path})

    def _answer(self, status: int, value: dict[str, Any]) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        return


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        monkeypatch.setattr(hub.constants, "ENDPOINT", server.address)
        monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = build_backbone("timm:test_vit", init="random")
    path = tmp_path_factory.mktemp("encoders") / "mine.safetensors"
    save_encoder(built, path, built.card)
    return path


def test_the_folder_is_in_a_private_repository(server: Hub, encoder: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine"
    words = [str(encoder), "--to", "hf", "--out", str(out), "--push", "lab/mine"]
    done = CliRunner().invoke(command, words)
    assert done.exit_code == 0, done.output
    assert "It is uploaded to lab/mine, which is private if it was not there before." in done.output
    assert server.files == {path.name: path.read_bytes() for path in out.iterdir()}
    assert {"model.safetensors", "config.json", "README.md"} == server.files.keys()
    (made,) = server.made
    assert (made["organization"], made["name"]) == ("lab", "mine")
    assert made.get("private") is True or made.get("visibility") == "private"


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("refused", r"The hub does not take it \(.*403.*\): "),
        ("silent", r"http://127\.0\.0\.1:9 does not answer: "),
        ("offline", "The hub is not asked, as HF_HUB_OFFLINE says: "),
    ],
)
def test_what_is_not_pushed_is_written_and_can_be_later(
    server: Hub, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, message: str
) -> None:
    server.refuses = case == "refused"
    if case == "silent":
        monkeypatch.setattr(hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", case == "offline")
    later = r"'.*my encoder' is written and not pushed; upload it by: hf upload lab/mine '.*my encoder'"
    with pytest.raises(EncoderError, match=f"{message}{later}"):
        export_encoder(encoder, tmp_path / "my encoder", to="hf", push="lab/mine")
    assert build_backbone(init=tmp_path / "my encoder").name.startswith("timm:") and not server.files


def test_what_cannot_be_pushed_is_refused_before_anything_is_written(encoder: Path, tmp_path: Path) -> None:
    for to, name, message in (
        ("timm", "lab/mine", "--push uploads the folder of --to hf, got --to timm"),
        ("hf", "mine", "--push takes ORG/NAME of the hub's repository, got 'mine'"),
        ("hf", "a/b/c", "--push takes ORG/NAME"),
    ):
        with pytest.raises(UsageError, match=message):
            export_encoder(encoder, tmp_path / "e.pth", to=to, push=name)
    assert not list(tmp_path.iterdir())
