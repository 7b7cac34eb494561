"""What `predict` and `embed` give back: figures in memory, and the patches of their files as tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wsitool.base.tables import read_table
from wsitool.predict.attended import AttendedPatch, most_attended
from wsitool.predict.prediction import file_names_of
from wsitool.predict.slide_summary import SlideSummary, summary_row
from wsitool.report.result import Result, as_dataframe, missing_extra

if TYPE_CHECKING:
    import anndata

__all__ = ["EmbedResult", "PredictResult"]

_LISTED = 8  # slides by name in a notebook; the table has all


@dataclass(frozen=True, kw_only=True, repr=False)
class EmbedResult(Result):
    """Files written: one of features per store (`unit`), and the map; `method` is how it was projected.

    `failed` holds (store, reason) for each that could not be embedded; the map is None if none could.

    >>> result = wsitool.embed("stores", "features", encoder="encoder.safetensors")
    >>> result
    <EmbedResult: 12 patches of 2 stores, 512 features each: features>
    >>> result.features().shape
    (12, 512)
    """

    files: tuple[Path, ...]
    map: Path | None
    method: str
    patches: int
    feature_dim: int
    failed: tuple[tuple[str, str], ...] = ()
    unit: str = "stores"

    @property
    def summary(self) -> str:
        failed = f", {len(self.failed)} failed" if self.failed else ""
        what = f"{self.patches:,} patches of {len(self.files)} {self.unit}, {self.feature_dim} features each"
        return f"{what}{failed}: {self.out}"

    @property
    def facts(self) -> Mapping[str, object]:
        return {f"failed: {name}": reason for name, reason in self.failed[:_LISTED]}

    @property
    def pictures(self) -> Sequence[Path]:
        return () if self.map is None else (self.map,)

    @property
    def rows(self) -> Sequence[Mapping[str, object]]:
        """A row for each patch: slide, level-0 x and y, tissue, and label and source where there are any."""
        return [row for path in self.files for row in _rows_of_features(path)]

    def features(self) -> NDArray[np.float32]:
        """(N, F) features of all patches, in the order of `rows`; read anew at each call."""
        import h5py

        parts = [np.empty((0, self.feature_dim), np.float32)]
        for path in self.files:
            with h5py.File(path, "r") as file:
                parts.append(np.asarray(file["features"][:], np.float32))
        return np.concatenate(parts)

    def to_anndata(self) -> anndata.AnnData:
        """The features as AnnData: `X` (N, F), the rows in `obs`, level-0 x and y in `obsm["spatial"]`.

        UsageError where anndata is not installed.
        """
        return _as_anndata(self.features(), self.rows, [f"feature{i}" for i in range(self.feature_dim)])


@dataclass(frozen=True, kw_only=True, repr=False)
class PredictResult(Result):
    """One entry per slide (or image of an imported store) that worked, (name, reason) for what did not.

    `doubts` hold for every slide; `kept` counts the entries that an earlier run had finished. `whole` says
    that slides were judged as a whole, by a classifier of slides, not by the mean over their patches.

    >>> result = wsitool.predict("run", "stores", "predictions")
    >>> result
    <PredictResult: 2 slides judged: predictions>
    >>> [slide.patches for slide in result.slides]
    [6, 6]
    """

    slides: tuple[SlideSummary, ...]
    failed: tuple[tuple[str, str], ...]
    doubts: tuple[str, ...]
    kept: int
    whole: bool = False

    @property
    def summary(self) -> str:
        failed = f", {len(self.failed)} failed" if self.failed else ""
        return (
            f"{len(self.slides)} {'slide' if len(self.slides) == 1 else 'slides'} judged{failed}: {self.out}"
        )

    @property
    def facts(self) -> Mapping[str, object]:
        doubts = {"doubt": "; ".join(self.doubts)} if self.doubts else {}
        verdicts = {slide.name: slide.verdict.verdict for slide in self.slides[:_LISTED]}
        return {**doubts, **verdicts, **{f"failed: {name}": reason for name, reason in self.failed[:_LISTED]}}

    @property
    def pictures(self) -> Sequence[Path]:
        # Of each slide the map of the class each patch was called; features may not say where they lie.
        maps = [self.out / file_names_of(slide.files, tuple(slide.mean))[2] for slide in self.slides]
        return [path for path in maps if path.is_file()]

    @property
    def rows(self) -> Sequence[Mapping[str, object]]:
        """A row for each slide: the columns of summary.csv."""
        return [summary_row(slide) for slide in self.slides]

    @property
    def patches(self) -> Sequence[Mapping[str, object]]:
        """A row for each patch: slide, level-0 x, y and size, class predicted, probability of each class.

        Of features that do not say where they lie `row` in their file in place of the three.
        """
        return [row for slide in self.slides for row in _rows_of_patches(self.out, slide)]

    def attended(self, slide: SlideSummary) -> list[AttendedPatch]:
        """The ten patches of most attention of one of `slides`; none by a classifier of patches."""
        return (
            most_attended(self.out / file_names_of(slide.files, tuple(slide.mean))[0]) if self.whole else []
        )

    def to_anndata(self) -> anndata.AnnData:
        """The patches of all slides as AnnData: `X` (N, K) probabilities, `var` the classes.

        `obs` has slide and predicted class, `obsm["spatial"]` level-0 x and y. UsageError where anndata is
        not installed.
        """
        classes = list(self.slides[0].mean) if self.slides else []
        rows = self.patches
        probabilities = [[row[f"p_{name}"] for name in classes] for row in rows]
        shown = ("slide", "x", "y", "size", "row", "predicted")
        told = [{name: row[name] for name in shown if name in row} for row in rows]
        matrix = np.asarray(probabilities, np.float32).reshape(len(rows), len(classes))
        return _as_anndata(matrix, told, classes)


def _rows_of_features(path: Path) -> Iterator[dict[str, object]]:
    import h5py

    with h5py.File(path, "r") as file:
        slide, coords, tissue = file["features"].attrs["name"], file["coords"][:], file["tissue"][:]
        labels = file["label"][:] if "label" in file else None
        # -1, unlabelled, is the last of the list.
        classes = [] if labels is None else [*map(str, file["label"].attrs["classes"]), ""]
        sources = file["source"].asstr()[:] if "source" in file else None
    for index, (x, y) in enumerate(coords.tolist()):
        yield {
            "slide": str(slide),
            "x": x,
            "y": y,
            "tissue": float(tissue[index]),
            **({} if labels is None else {"label": classes[labels[index]]}),
            **({} if sources is None else {"source": str(sources[index])}),
        }


def _rows_of_patches(out: Path, slide: SlideSummary) -> Iterator[dict[str, object]]:
    classes = tuple(slide.mean)
    path = out / file_names_of(slide.files, classes)[0]
    table = read_table(path, needs=("predicted",), exact=True)
    for row in table.rows:
        place = (
            {"x": int(row["x"]), "y": int(row["y"]), "size": float(row["size"])}
            if "x" in table.headers
            else None
        )
        yield {
            "slide": slide.name,
            **(place or {"row": int(row["row"])}),
            "predicted": row["predicted"],
            # Headings are read in lower case.
            **{f"p_{name}": float(row[f"p_{name}".lower()]) for name in classes},
        }


def _as_anndata(
    matrix: NDArray[np.float32], rows: Sequence[Mapping[str, object]], variables: Sequence[str]
) -> anndata.AnnData:
    try:
        import anndata
    except ImportError:
        raise missing_extra("AnnData", "anndata", "anndata") from None
    obs = as_dataframe(rows)
    # AnnData's names are texts, each once: a slide's patches by their corner.
    obs.index = [f"{row['slide']}:{number}" for number, row in enumerate(rows)]
    # Features need not say where they lie; a position that is not known is (-1, -1).
    spatial = np.array([(row.get("x", -1), row.get("y", -1)) for row in rows], np.int64).reshape(len(rows), 2)
    var: Any = as_dataframe([{} for _ in variables])
    var.index = list(variables)
    return anndata.AnnData(X=matrix, obs=obs, var=var, obsm={"spatial": spatial})
