"""The server's answers: the page, and what its scripts ask for."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from wsitool.base.open_things import OpenThings
from wsitool.base.sentences import one_sentence
from wsitool.errors import UsageError, WsitoolError
from wsitool.methods.registry import installed_methods
from wsitool.predict.prediction import mosaic
from wsitool.slides.masks import file_of, find_tissue
from wsitool.slides.readers import TiledSlide, open_slide
from wsitool.slides.tissue_registry import DEFAULT_TISSUE
from wsitool.store import jpeg
from wsitool.store.opening import open_store
from wsitool.store.reader import Reader
from wsitool.tiling.reopening import reopen
from wsitool.viewer.cells import prediction_cells, store_cells, tissue_rings
from wsitool.viewer.feature_map import feature_map
from wsitool.viewer.library import Group, Library, SlideEntry
from wsitool.viewer.mistakes import experiment_choices, experiment_mistakes, mistakes
from wsitool.viewer.neighbours import features_of, neighbours
from wsitool.viewer.posted import Posted, taking
from wsitool.viewer.pyramid import Pyramid
from wsitool.viewer.regions import Regions

__all__ = ["make_app"]

_STATIC = Path(__file__).parent / "static"
_OPEN_SLIDES, _OPEN_STORES = 24, 64
_LARGEST_OUTLINE = 1 << 20  # bytes
_THUMBNAIL = 144  # pixels, for the list, which shows them at half of it
_KEEP = {
    "cache-control": "private, max-age=3600"
}  # what an id stands for does not change while the server runs
_BYTES = "application/octet-stream"


class _Answers:
    """One method for each address; they run in Starlette's threads."""

    def __init__(self, library: Library, regions: Regions | None) -> None:
        self._library, self._regions = library, regions
        self._slides: OpenThings[Pyramid] = OpenThings(_OPEN_SLIDES)
        self._stores: OpenThings[Reader] = OpenThings(_OPEN_STORES)

    def page(self, _: Request) -> Response:
        return FileResponse(_STATIC / "index.html")

    def library(self, _: Request) -> Response:
        groups = [
            {"id": group.id, "kind": group.kind, "name": group.name, "problem": group.problem}
            for group in self._library.groups.values()
        ]
        slides = [slide.to_dict() for slide in self._library.slides.values()]
        return JSONResponse({"groups": groups, "slides": slides})

    def slide(self, request: Request) -> Response:
        """What the slide page needs: levels, or why there are none, and which overlays there are."""
        slide = self._slide(request)
        names = {group.id: group.name for group in self._library.groups.values()}
        told = slide.to_dict() | {
            "levels": [],
            "why": "",
            "predictions": [{"id": id, "name": names[id]} for id, _ in self._library.predictions_of(slide)],
            "features": [{"id": id, "name": names[id]} for id in features_of(slide, self._library)],
        }
        try:
            with self._pyramid(slide) as pyramid:
                told["levels"] = [vars(level) for level in pyramid.levels]
                told["mpp"] = pyramid.slide.info.mpp or slide.mpp
        except WsitoolError as error:
            told["why"] = one_sentence(error)
        return JSONResponse(told)

    def tile(self, request: Request) -> Response:
        place = request.path_params
        with self._pyramid(self._slide(request)) as pyramid:
            data = pyramid.tile(place["level"], place["column"], place["row"])
        return Response(data, media_type="image/jpeg", headers=_KEEP)

    def thumbnail(self, request: Request) -> Response:
        """The picture that `tile` left of a slide, small."""
        slide = self._slide(request)
        path = slide.preview
        # A link may lead elsewhere.
        if path is None or not self._library.holds(path):
            raise HTTPException(404, f"There is no picture of '{slide.name}'.")
        buffer = io.BytesIO()
        try:
            with Image.open(path, formats=["JPEG"]) as picture:
                picture.draft("RGB", (2 * _THUMBNAIL, 2 * _THUMBNAIL))  # decodes only what is needed
                picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
                picture.convert("RGB").save(buffer, format="JPEG", quality=85)
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise HTTPException(404, f"The picture '{path.name}' cannot be read ({error}).") from None
        return Response(buffer.getvalue(), media_type="image/jpeg", headers=_KEEP)

    def cells(self, request: Request) -> Response:
        with self._store(self._slide(request)) as store:
            return Response(store_cells(store), media_type=_BYTES, headers=_KEEP)

    def tissue(self, request: Request) -> Response:
        """The outline of what was taken for tissue, found again as it was when the slide was cut."""
        slide = self._slide(request)
        with self._store(slide) as store, self._pyramid(slide) as pyramid:
            name = str(store.meta.params.get("tissue") or DEFAULT_TISSUE)
            file = file_of(name, store.meta.source, store.meta.name)
            if file is not None and not self._library.holds(file):
                raise WsitoolError(f"Tissue was found by '{file}', which is outside the folders given.")
            return Response(tissue_rings(find_tissue(pyramid.slide, name)), media_type=_BYTES, headers=_KEEP)

    def mosaic(self, request: Request) -> Response:
        """The patches in the place of a slide that is away."""
        with self._store(self._slide(request)) as store:
            picture = mosaic(store, np.arange(len(store)))
        return Response(jpeg.encode(picture.pixels, 85), media_type="image/jpeg", headers=_KEEP)

    def patch(self, request: Request) -> Response:
        """A patch as the store has it: PNG, so that what is shown is what networks see."""
        with self._store(self._slide(request)) as store:
            row = request.path_params["row"]
            _check_row(store, row)
            return _png(store.read([row])[0])

    def neighbours(self, request: Request) -> Response:
        """The nearest patches of other slides, by the features of one folder of `embed`."""
        place = request.path_params
        slide = self._slide(request)
        return JSONResponse(neighbours(slide, place["row"], place["features"], self._library))

    def methods(self, _: Request) -> Response:
        return JSONResponse([method.name for method in installed_methods()])

    def views(self, request: Request) -> Response:
        """What a method makes of a patch; see `view_sheet`."""
        from wsitool.viewer.view_sheet import view_sheet  # imports torch

        slide, place = self._slide(request), request.path_params
        with self._store(slide) as store:
            _check_row(store, place["row"])
        assert slide.store is not None
        return _png(view_sheet(slide.store, place["row"], place["method"]))

    def prediction(self, request: Request) -> Response:
        asked = request.path_params["prediction"]
        for id, table in self._library.predictions_of(self._slide(request)):
            if id == asked:
                return Response(prediction_cells(table), media_type=_BYTES, headers=_KEEP)
        raise HTTPException(404, "There is no such prediction of this slide.")

    def run(self, request: Request) -> Response:
        group = self._group(request, "run")
        return JSONResponse({"name": group.name, **mistakes(group.path, self._library)})

    def experiment(self, request: Request) -> Response:
        group = self._group(request, "experiment")
        return JSONResponse({"name": group.name, **experiment_choices(group.path)})

    def cell(self, request: Request) -> Response:
        """The mistakes of one row, amount of labels and seed of an experiment."""
        group, place = self._group(request, "experiment"), request.path_params
        told = experiment_mistakes(
            group.path, place["row"], place["amount"], place["seed"], library=self._library
        )
        return JSONResponse({"name": group.name, **told})

    def features(self, request: Request) -> Response:
        group = self._group(request, "features")
        return Response(feature_map(group.path, self._library), media_type=_BYTES, headers=_KEEP)

    def regions(self, request: Request) -> Response:
        """What is outlined on a slide, and whether more can be drawn."""
        slide = self._slide(request)
        kept = self._regions.of(slide.name) if self._regions is not None else []
        return JSONResponse({"may_draw": self._regions is not None, "regions": kept})

    def draw(self, sent: Posted, slide: str) -> Any:
        """Keep an outline, or take one away that was drawn here; then what there is."""
        name, kept = self._named(slide).name, self._regions
        if kept is None:
            raise UsageError("Start `wsitool view` with --regions FOLDER to draw regions.")
        if "remove" in sent:
            kept.remove(name, sent["remove"])
        else:
            kept.add(name, sent.get("name"), sent.get("ring"))
        return {"may_draw": True, "regions": kept.of(name)}

    def close(self) -> None:
        self._slides.close()
        self._stores.close()

    def _group(self, request: Request, kind: str) -> Group:
        group = self._library.groups.get(request.path_params[kind])
        if group is None or group.kind != kind:
            raise HTTPException(404, f"There is no such {kind} in the folders given.")
        return group

    def _slide(self, request: Request) -> SlideEntry:
        return self._named(request.path_params["slide"])

    def _named(self, id: str) -> SlideEntry:
        slide = self._library.slides.get(id)
        if slide is None:
            raise HTTPException(404, "There is no such slide in the folders given.")
        return slide

    @contextmanager
    def _pyramid(self, slide: SlideEntry) -> Iterator[Pyramid]:
        source = self._library.readable_source(slide)
        if source is None:
            away = "is not there" if slide.source else "has no file"
            raise WsitoolError(
                f"The slide '{slide.source or slide.name}' {away}, or outside the folders given: give its "
                "folder too (`wsitool view STORES SLIDES`). Its stored patches are shown in its place."
            )
        with self._slides.lease(slide.id, lambda: Pyramid(self._opened(slide, source))) as pyramid:
            yield pyramid

    def _opened(self, slide: SlideEntry, source: Path) -> TiledSlide:
        """The slide as it was read when it was tiled, channels and colours too."""
        if slide.store is None:
            return open_slide(source)
        with self._store(slide) as store:
            opened = reopen(store.meta, source)
            if opened.info.fingerprint != store.meta.fingerprint:
                opened.close()
                raise WsitoolError(
                    f"'{source}' is not the file that was tiled: what is stored would lie in wrong places."
                )
            return opened

    @contextmanager
    def _store(self, slide: SlideEntry) -> Iterator[Reader]:
        path = slide.store
        if path is None:
            raise WsitoolError(f"There is no store of '{slide.name}': {slide.problem or 'it was not tiled'}.")
        with self._stores.lease(slide.id, lambda: open_store(path)) as store:
            yield store


def _check_row(store: Reader, row: int) -> None:
    if not 0 <= row < len(store):
        raise HTTPException(404, f"The store has {len(store)} patches, and no row {row}.")


def _png(pixels: NDArray[np.uint8]) -> Response:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=1)
    return Response(buffer.getvalue(), media_type="image/png", headers=_KEEP)


def make_app(library: Library, regions: Regions | None = None) -> Starlette:
    """The application over what `library` found; all is read only, but for the `regions` that are drawn."""
    answers = _Answers(library, regions)
    slide = "/api/slides/{slide:str}"
    addresses: dict[str, Callable[[Request], Any]] = {
        "/": answers.page,
        "/api/library": answers.library,
        slide: answers.slide,
        slide + "/tiles/{level:int}/{column:int}/{row:int}": answers.tile,
        slide + "/thumbnail": answers.thumbnail,
        slide + "/cells": answers.cells,
        slide + "/tissue": answers.tissue,
        slide + "/mosaic": answers.mosaic,
        slide + "/regions": answers.regions,
        slide + "/patches/{row:int}": answers.patch,
        slide + "/patches/{row:int}/neighbours/{features:str}": answers.neighbours,
        slide + "/patches/{row:int}/views/{method:str}": answers.views,
        slide + "/predictions/{prediction:str}": answers.prediction,
        "/api/methods": answers.methods,
        "/api/runs/{run:str}": answers.run,
        "/api/experiments/{experiment:str}": answers.experiment,
        "/api/experiments/{experiment:str}/{row:int}/{amount:int}/{seed:int}": answers.cell,
        "/api/features/{features:str}": answers.features,
    }
    routes = [Route(path, endpoint, methods=["GET"]) for path, endpoint in addresses.items()]
    routes.append(Route(slide + "/draw", taking(answers.draw, largest=_LARGEST_OUTLINE), methods=["POST"]))

    @contextmanager
    def closing(_: Starlette) -> Iterator[None]:
        yield
        answers.close()

    return Starlette(
        routes=[*routes, Mount("/static", StaticFiles(directory=_STATIC))],
        exception_handlers={WsitoolError: _told, IndexError: _told, HTTPException: _told},
        lifespan=_as_async(closing),
    )


def _as_async(manager: Any) -> Any:
    from contextlib import asynccontextmanager

    @asynccontextmanager
    async def running(app: Starlette) -> Any:
        with manager(app):
            yield

    return running


def _told(request: Request, error: Exception) -> Response:
    """The sentence of an error, for the place in the page; 507 for what could not be kept."""
    if isinstance(error, HTTPException):
        return JSONResponse({"problem": error.detail}, status_code=error.status_code)
    text = str(error) if isinstance(error, IndexError) else one_sentence(error)
    status = 404 if request.method == "GET" else 400 if isinstance(error, UsageError) else 507
    return JSONResponse({"problem": text}, status_code=status)
