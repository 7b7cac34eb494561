"""`predict`: what a classifier makes of whole slides, straight from their files or from stores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

from wsitool.base.cluster import on_cluster
from wsitool.base.files import check_writable
from wsitool.base.interrupt import progress_on_stop, raise_if_stopping
from wsitool.base.lock import locked
from wsitool.base.paths import AnyPath, as_list
from wsitool.base.planned import refuse_others
from wsitool.base.progress import SILENT, Reporter
from wsitool.base.sentences import one_sentence, system_error
from wsitool.base.shards import part_of
from wsitool.classify.model import ClassifierCard
from wsitool.predict.bags import SlideJudge, load_judge, say_level
from wsitool.predict.judging import (
    Judge,
    common_of,
    judge_of,
    remote_item,
    rows_of,
    task_of,
)
from wsitool.predict.known import digest_of_run, doubts_of, warn_of_classifier
from wsitool.predict.of_features import FeatureJudge, feature_judge, given_features
from wsitool.predict.options import PredictOptions
from wsitool.predict.outcomes import SUMMARY, FeatureFile, Item, Outcomes, name_of
from wsitool.predict.result import PredictResult
from wsitool.predict.rules import tile_spec
from wsitool.predict.stain import check_stain_asked
from wsitool.slides.masks import check_tissue
from wsitool.slides.reader_registry import READERS
from wsitool.slides.slide_list import find_slides
from wsitool.store.opening import find_stores

__all__ = ["predict"]


def predict(
    run: str | Path,
    inputs: AnyPath | Iterable[AnyPath],
    out: str | Path,
    *,
    options: PredictOptions | None = None,
    reporter: Reporter = SILENT,
) -> PredictResult:
    """Judge every tissue patch of slides (files, folders, CSV) or stores with the classifier in `run`.

    A classifier of slides judges files of features of its encoder, too: see `FeatureJudge`.
    Writes `out`/<slide>.csv, <slide>.geojson (QuPath), <slide>-<class>.jpg and summary.csv, which grows as
    slides finish. Stores of `import` give these for each of their images. A slide that fails does not stop
    the others; what an earlier run into `out` made of the same slide with the same classifier and options is
    kept. With `shard` the jobs of an array add their rows to the one summary, with `dask` each slide is a
    task of that cluster. EncoderError or UsageError if nothing can start; the error of a disk that is full
    ends the run.
    """
    options, out = options or PredictOptions(), Path(out)
    options.rule  # noqa: B018  # raises UsageError
    inputs = as_list(inputs)
    items: Sequence[Item]
    judge: Judge | FeatureJudge
    if items := (files := given_features(inputs)):
        judge = feature_judge(run, files, out, options, reporter)
    else:
        judge, items = _judge_of_slides(run, inputs, out, options, reporter)
    check_writable(out)
    with locked(out / SUMMARY, what=f"'{out}'") if options.shard is None else nullcontext():
        result = _predict_all(judge, run, items, reporter)
    if isinstance(judge, FeatureJudge):
        judge.say_untold(reporter)
    return result


def _judge_of_slides(
    run: str | Path, inputs: Sequence[AnyPath], out: Path, options: PredictOptions, reporter: Reporter
) -> tuple[Judge, list[Item]]:
    """The classifier that judges slides and stores, and these."""
    classifier = load_judge(run)
    say_level(classifier.slides.card.level if isinstance(classifier, SlideJudge) else "patch", reporter)
    check_stain_asked(classifier.card, options)
    READERS.check(options.reader)
    check_tissue(tile_spec(classifier.card, options).tissue)
    items = _find(inputs, reporter)
    judge = judge_of(classifier, options, doubts_of(Path(run)), out, reporter)
    _warn_first(classifier.card, judge.doubts, items, options, reporter)
    return judge, items


def _predict_all(
    judge: Judge | FeatureJudge, run: str | Path, items: Sequence[Item], reporter: Reporter
) -> PredictResult:
    out, options = judge.out, judge.options
    part = None if options.shard is None else part_of(items, options.shard)
    outcomes = Outcomes(
        out,
        judge.classes,
        items,
        part=part,
        digest=digest_of_run(run, options, judge.doubts),
        overwrite=options.overwrite,
    )
    if part is None:
        refuse_others(outcomes.written, f"'{out}'")
    count = len(items if part is None else part)
    with (
        progress_on_stop(lambda: f"{outcomes.finished} of {count} slides done; run again to go on"),
        reporter.task("predict", total=count, unit="slides") as task,
    ):
        for item in outcomes.keep_finished():
            task.advance(1, note=name_of(item))
        if isinstance(judge, Judge) and options.dask is not None:
            judged = _judge_there(judge, run, outcomes, reporter)
        else:
            judged = _judge_here(judge, outcomes, reporter)
        for item in judged:
            task.advance(1, note=name_of(item))
        lacking = outcomes.end()
    if lacking and part is not None:
        reporter.say(
            f"{lacking} of {len(items)} slides are not there yet, of other jobs, which add them to {SUMMARY}."
        )
    return PredictResult(
        out=out,
        slides=tuple(outcomes.slides),
        failed=tuple(outcomes.failed[place] for place in sorted(outcomes.failed)),
        doubts=judge.doubts,
        kept=outcomes.kept,
        whole=judge.whole,
    )


def _judge_here(judge: Judge | FeatureJudge, outcomes: Outcomes, reporter: Reporter) -> Iterator[Item]:
    """The unfinished items, as they end."""
    for item in outcomes.unfinished():
        try:
            with outcomes.opened(item) as source:
                made_from = outcomes.look_at(item, source)
                outcomes.add(item, judge.judge(source, outcomes.files(item), made_from, reporter))
        except Exception as error:  # noqa: BLE001  # whatever it is, it is one slide's
            # A signal shows as whatever error it interrupted; it is no failure of the slide.
            raise_if_stopping()
            outcomes.fails(item, one_sentence(error), is_system=system_error(error) is not None)
        yield item


def _judge_there(judge: Judge, run: str | Path, outcomes: Outcomes, reporter: Reporter) -> Iterator[Item]:
    """The same on a cluster."""
    items = [item for item in outcomes.unfinished() if not isinstance(item, FeatureFile)]
    common = common_of(judge, run)
    tasks = [task_of(common, item, outcomes.files(item), outcomes.look_at(item)) for item in items]
    names = [name_of(item) for item in items]
    for index, answer in on_cluster(remote_item, tasks, names, address=judge.options.dask or ""):
        item = items[index]
        if isinstance(answer, str):
            outcomes.fails(item, answer, is_system=False)
        else:
            for warning in answer["warnings"]:
                reporter.warn(warning)
            if answer["problem"]:
                outcomes.fails(item, answer["problem"], is_system=answer["is_system"])
            else:
                outcomes.add(item, rows_of(answer))
        yield item


def _find(inputs: AnyPath | Iterable[AnyPath], reporter: Reporter) -> list[Item]:
    """Stores as paths, everything else as slides, in the order given."""
    items: list[Item] = []
    for item in as_list(inputs):
        stores = find_stores(item)
        items += stores or find_slides(item, reporter=reporter)
    # A slide given twice is judged once; the first mention decides the place.
    return list(dict.fromkeys(items))


def _warn_first(
    card: ClassifierCard,
    doubts: tuple[str, ...],
    items: Sequence[Item],
    options: PredictOptions,
    reporter: Reporter,
) -> None:
    """What holds for every slide, before the first."""
    warn_of_classifier(card.temperature, doubts, reporter)
    told = options.mpp is not None or options.level is not None
    if card.mpp is None and not told and any(not isinstance(item, Path) for item in items):
        reporter.warn(
            "The resolution of the patches the classifier was trained on is not known, so slides are read as "
            "they are (level 0): give --mpp if the patches were of another resolution."
        )
