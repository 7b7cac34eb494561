"""The server's answers to the labelling page."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import cast, get_args

from PIL import Image
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from wsitool import viewer
from wsitool.base.sentences import one_sentence
from wsitool.errors import CorruptStoreError, UsageError, WsitoolError
from wsitool.labelling.database import Chosen, Kind
from wsitool.labelling.exchange import geojson_download, labels_csv
from wsitool.labelling.options import check_annotator
from wsitool.labelling.session import Session
from wsitool.labelling.told import told_of, told_patch
from wsitool.viewer.posted import Posted, taking

__all__ = ["make_app"]

_STATIC = Path(viewer.__file__).parent / "static"
_LARGEST_BODY = 1 << 16
_LONGEST_TEXT = {"id": 64, "client": 64, "annotator": 64, "note": 4000}
_KEEP = {"cache-control": "private, max-age=3600"}


class _Answers:
    """One method for each address. Those that change something take the JSON object that was sent."""

    def __init__(self, session: Session, annotator: str | None) -> None:
        self._session, self._annotator = session, annotator

    def page(self, _: Request) -> Response:
        return FileResponse(_STATIC / "label.html")

    def about(self, _: Request) -> Response:
        """Who labels, where that is known, and the classes, to be shown while the page asks."""
        return JSONResponse({"annotator": self._annotator, "classes": self._session.plan.classes})

    def patch(self, request: Request) -> Response:
        """A patch as the store has it: PNG, so that what is shown is what networks see."""
        patch = self._number(request.path_params["store"], request.path_params["row"])
        store, row = self._session.patches.store(patch), request.path_params["row"]
        buffer = io.BytesIO()
        Image.fromarray(store.read([row])[0]).save(buffer, format="PNG", compress_level=1)
        return Response(buffer.getvalue(), media_type="image/png", headers=_KEEP)

    def csv(self, _: Request) -> Response:
        return _download("labels.csv", labels_csv(self._session), "text/csv")

    def geojson(self, _: Request) -> Response:
        name, data = geojson_download(self._session)
        # Slides are called anything; a header is not.
        plain = "".join(
            letter if (letter.isascii() and letter.isalnum()) or letter in "._-" else "_" for letter in name
        )
        return _download(plain, data, "application/zip" if name.endswith(".zip") else "application/geo+json")

    def next(self, sent: Posted) -> Posted:
        client, annotator = self._who(sent)
        return self._told(client, annotator)

    def answer(self, sent: Posted) -> Posted:
        client, annotator = self._who(sent)
        kind, chosen = sent.get("kind"), sent.get("chosen")
        if kind not in get_args(Kind) or chosen not in ("random", "selected", "least-sure"):
            raise UsageError("An answer is a label, unsure, skip or damaged: load the page again.")
        label = sent.get("label")
        if label is not None and type(label) is not int:
            raise UsageError("A label is the number of a class: load the page again.")
        self._session.answer(
            id=_text(sent, "id"),
            client=client,
            annotator=annotator,
            patch=self._number(sent.get("store"), sent.get("row")),
            kind=cast(Kind, kind),
            label=label,
            note=_text(sent, "note", may_be_empty=True),
            chosen=cast(Chosen, chosen),
        )
        return self._told(client, annotator)

    def state(self, sent: Posted) -> Posted:
        """How far all are; it keeps no patch in anybody's hand."""
        return told_of(self._session, self._who(sent)[1])

    def undo(self, sent: Posted) -> Posted:
        client, annotator = self._who(sent)
        asked = self._session.undo(_text(sent, "id"), client, annotator)
        return {"patch": told_patch(self._session, asked), "state": told_of(self._session, annotator)}

    def _told(self, client: str, annotator: str) -> Posted:
        """The next patch, looked at before it is shown, and how far one is."""
        asked = self._session.next(client, annotator)
        if asked is not None and not asked.problem:
            patches = self._session.patches
            try:
                patches.store(asked.patch).read([int(patches.collection.row[asked.patch])])
            except CorruptStoreError as error:
                self._session.note_damaged(asked.patch, one_sentence(error))
                asked = self._session.next(client, annotator)
        return {"patch": told_patch(self._session, asked), "state": told_of(self._session, annotator)}

    def _who(self, sent: Posted) -> tuple[str, str]:
        annotator = self._annotator or _text(sent, "annotator")
        check_annotator(annotator)
        return _text(sent, "client"), annotator

    def _number(self, store: object, row: object) -> int:
        patch = None
        if type(store) is int and type(row) is int:
            patch = self._session.patches.number(store, row)
        if patch is None:
            raise HTTPException(404, "There is no such patch in the stores given.")
        return patch


def make_app(session: Session, *, annotator: str | None = None) -> Starlette:
    """The application over a session; `annotator` is who labels, or None where the page asks."""
    answers = _Answers(session, annotator)
    gets: dict[str, Callable[[Request], Response]] = {
        "/": answers.page,
        "/api/label/about": answers.about,
        "/api/label/patches/{store:int}/{row:int}": answers.patch,
        "/api/label/labels.csv": answers.csv,
        "/api/label/labels.geojson": answers.geojson,
    }
    posts: dict[str, Callable[[Posted], Posted]] = {
        "/api/label/next": answers.next,
        "/api/label/answer": answers.answer,
        "/api/label/undo": answers.undo,
        "/api/label/state": answers.state,
    }
    routes = [
        *(Route(path, endpoint, methods=["GET"]) for path, endpoint in gets.items()),
        *(
            Route(path, taking(endpoint, largest=_LARGEST_BODY), methods=["POST"])
            for path, endpoint in posts.items()
        ),
        Mount("/static", StaticFiles(directory=_STATIC)),
    ]
    return Starlette(routes=routes, exception_handlers={WsitoolError: _said, HTTPException: _said})


def _text(sent: Posted, name: str, *, may_be_empty: bool = False) -> str:
    value = sent.get(name, "" if may_be_empty else None)
    if not isinstance(value, str) or len(value) > _LONGEST_TEXT[name] or not (value or may_be_empty):
        raise UsageError(f"'{name}' is to be a text of at most {_LONGEST_TEXT[name]} letters.")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UsageError(f"'{name}' holds half of a letter.") from None
    return value


def _download(name: str, data: bytes, kind: str) -> Response:
    headers = {"content-disposition": f'attachment; filename="{name}"', "cache-control": "no-store"}
    return Response(data, media_type=kind, headers=headers)


def _said(_: Request, error: Exception) -> Response:
    """The sentence of an error: 507 where the answer could not be kept."""
    if isinstance(error, HTTPException):
        return JSONResponse({"problem": error.detail}, status_code=error.status_code)
    status = 400 if isinstance(error, UsageError) else 404 if isinstance(error, CorruptStoreError) else 507
    return JSONResponse({"problem": one_sentence(error)}, status_code=status)
