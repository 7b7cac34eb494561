"""Encoders, features, classifiers, predictions and experiments; each imports torch when it is called."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from wsitool.base.console import ProgressChoice, reporter_of
from wsitool.base.parameters import take
from wsitool.base.paths import AnyPath, as_list
from wsitool.classify.settings import ClassifyOptions, Settings
from wsitool.experiment.place import ExperimentDevice, ExperimentShard
from wsitool.experiment.plan import ExperimentPlan
from wsitool.experiment.plan_file import read_plan
from wsitool.functions.options import command_words, keywords, known, whole_stores
from wsitool.mil.options import SlideOptions, SlideSettings, chosen_settings
from wsitool.predict.options import EmbedOptions, PredictOptions
from wsitool.store.collection import Collection
from wsitool.tiling.stream_options import StreamOptions, stream_options
from wsitool.training.config import PretrainConfig

if TYPE_CHECKING:
    from wsitool.api import Method
    from wsitool.classify.result import ClassifyResult
    from wsitool.experiment.parts import ExperimentPart
    from wsitool.experiment.run import ExperimentResult
    from wsitool.predict.result import EmbedResult, PredictResult
    from wsitool.tracking.contract import MetricLogger
    from wsitool.training.result import PretrainResult

__all__ = ["classify", "embed", "experiment", "predict", "pretrain"]

Stores = AnyPath | Iterable[AnyPath] | Collection
_CLASSIFY = (ClassifyOptions, SlideOptions, Settings)


@keywords(PretrainConfig, StreamOptions)
def pretrain(
    stores: Stores,
    out: str | Path,
    *,
    method: str | type[Method[Any]],
    resume: bool | Literal["auto"] = False,
    overwrite: bool = False,
    keep_checkpoint: bool = False,
    loggers: Sequence[MetricLogger] = (),
    progress: ProgressChoice = None,
    **options: Any,
) -> PretrainResult:
    """Pretrain an encoder on unlabelled patches of stores or a collection, into the folder `out`.

    Options are those of `wsitool pretrain`, the method's own among them (`temperature=0.1`). `method` is an
    installed one's name, or a class derived from `wsitool.api.Method`. `resume` goes on from `out`/last.ckpt,
    bit for bit; "auto" starts where there is nothing to go on with; a finished run of the same options stays.
    `keep_checkpoint` lets a later `resume` make it longer. `loggers` take the rows of metrics.csv. With
    `stream` slides are named in place of stores; those that fail are told of in the result. Raises
    UsageError, PluginError, EncoderError or StoreError first, TrainingError or MemoryShortError on the way.

    >>> result = wsitool.pretrain(
    ...     "stores", "encoder", method="simclr", init="encoder.safetensors", epochs=1, batch_size=6
    ... )
    >>> result.steps, result.card.backbone
    (2, 'resnet18')
    """
    from wsitool.methods.registry import load_method, named
    from wsitool.tiling.streaming import Streaming
    from wsitool.training.run import pretrain as run

    name = named(method)
    kinds = (PretrainConfig, StreamOptions)
    given = known(f"pretrain with {name}", options, *kinds, load_method(name).params_type)
    cut = {key: given.pop(key) for key in StreamOptions.names() if key in given}
    streaming = stream_options(cut.pop("stream", False), cut)
    declared = {key: given.pop(key) for key in PretrainConfig.names() if key in given}
    if "init" in declared:
        declared["init"] = os.fspath(declared["init"])
    patches = stores if isinstance(stores, Collection) else as_list(stores)
    asked = {"method": name, **declared}
    paths = patches if isinstance(patches, list) else [store.path for store in patches.stores]
    reporter = reporter_of(progress)
    slides = None if streaming is None else Streaming(paths, streaming, declared.get("threads"), reporter)
    with slides or nullcontext():
        result = run(
            patches if slides is None else slides.collection,
            out=out,
            params=given,
            resume=resume,
            overwrite=overwrite,
            keep_checkpoint=keep_checkpoint,
            loggers=loggers,
            reporter=reporter,
            **asked,
        )
    said = asked if streaming is None else asked | streaming.to_dict()
    words = command_words("pretrain", paths, out, said, *kinds)
    own = [f"--{key.replace('_', '-')}={value}" for key, value in given.items()]
    return replace(result, command=(*words, *own), failed=() if slides is None else slides.failed)


@keywords(EmbedOptions)
def embed(
    stores: Stores,
    out: str | Path,
    *,
    encoder: AnyPath,
    progress: ProgressChoice = None,
    **options: Any,
) -> EmbedResult:
    """Write the features of every patch of `stores` into the folder `out`, and a map of them.

    `encoder` is a result of `pretrain`, its folder or file, or a name such as "imagenet"; options are those
    of `wsitool embed`. A store that fails is told of in the result. UsageError if choices do not fit, or
    other files are in the way.

    >>> result = wsitool.embed("stores", "features", encoder="encoder.safetensors")
    >>> result.patches, result.feature_dim
    (12, 512)
    """
    given = known("embed", options, EmbedOptions)
    paths, start = whole_stores(stores), os.fsdecode(encoder)

    from wsitool.predict.embedding import embed as run

    result = run(paths, encoder=start, out=out, reporter=reporter_of(progress), **given)
    words = command_words("embed", paths, out, given, EmbedOptions)
    return replace(result, command=(*words, "--encoder", start))


@keywords(*_CLASSIFY)
def classify(
    train: Stores,
    out: str | Path,
    *,
    test: Stores = (),
    progress: ProgressChoice = None,
    **options: Any,
) -> ClassifyResult:
    """Train a classifier on labelled stores or a collection and judge it, into the folder `out`.

    It is judged on `test`, or by cross-validation with `folds`, or, with neither, on its own validation share
    (optimistic, and said so). Options are those of `wsitool classify`. UsageError for choices that cannot
    work together or leak, LabelError, EncoderError, StoreError.

    >>> train, test = wsitool.open_collection("stores").split(test=0.5)
    >>> result = wsitool.classify(train, "result", test=test, encoder="encoder.safetensors", head="linear")
    >>> result.judged_on, result.classes, result.scores["patches"]
    ('test', ('adh', 'benign'), 6)
    """
    given = known("classify", options, *_CLASSIFY)
    judge = test if isinstance(test, Collection) else None
    tested = [store.path for store in test.stores] if isinstance(test, Collection) else as_list(test)
    given["test"] = tuple(map(str, tested))
    stores = train if isinstance(train, Collection) else as_list(train)
    paths = [store.path for store in stores.stores] if isinstance(stores, Collection) else stores
    words = command_words("classify", paths, out, given, *_CLASSIFY)
    settings, reporter = chosen_settings(given), reporter_of(progress)
    if isinstance(settings, SlideSettings):
        from wsitool.mil.run import classify_slides

        result = classify_slides(stores, out=out, settings=settings, judge=judge, reporter=reporter, **given)
    else:
        from wsitool.classify.run import classify as run

        result = run(stores, out=out, settings=settings, judge=judge, reporter=reporter, **given)
    return replace(result, command=words)


@keywords(PredictOptions)
def predict(
    run: AnyPath,
    inputs: AnyPath | Iterable[AnyPath] | Collection,
    out: str | Path,
    *,
    progress: ProgressChoice = None,
    **options: Any,
) -> PredictResult:
    """Judge every tissue patch of slides or stores by a classifier, into the folder `out`.

    `run` is a result of `classify`, or its folder; options are those of `wsitool predict`. What an earlier
    run made of the same slide in the same way is kept, and a slide that fails is told of in the result.
    EncoderError or UsageError if nothing can start.

    >>> result = wsitool.predict("run", "stores", "predictions")
    >>> [(slide.name, slide.patches) for slide in result.slides]
    [('a', 6), ('b', 6)]
    """
    given = known("predict", options, PredictOptions)
    paths, folder = whole_stores(inputs), os.fsdecode(run)
    words = command_words("predict", [folder, *paths], out, given, PredictOptions)

    from wsitool.predict.run import predict as judge

    result = judge(folder, paths, out, options=PredictOptions(**given), reporter=reporter_of(progress))
    return replace(result, command=words)


@overload
def experiment(
    train: ExperimentPlan | Stores,
    out: str | Path,
    *,
    progress: ProgressChoice = None,
    shard: None = None,
    **options: Any,
) -> ExperimentResult: ...


@overload
def experiment(
    train: ExperimentPlan | Stores,
    out: str | Path,
    *,
    progress: ProgressChoice = None,
    shard: str,
    **options: Any,
) -> ExperimentResult | ExperimentPart: ...


@keywords(ExperimentPlan, ExperimentDevice, ExperimentShard)
def experiment(
    train: ExperimentPlan | Stores,
    out: str | Path,
    *,
    progress: ProgressChoice = None,
    **options: Any,
) -> ExperimentResult | ExperimentPart:
    """Compare ways of training at several label fractions, into the folder `out`.

    `train` are labelled stores, or a plan: a TOML or JSON file, or an `ExperimentPlan`, whose values
    `options` replace. Options are those of `wsitool experiment`; fractions above 1 are per cent. Finished
    cells are kept. A `shard` makes its cells only, and gives an `ExperimentPart` where others are left.
    Raises what `classify` and `pretrain` raise.

    >>> result = wsitool.experiment(
    ...     "stores", "table", folds=2, methods=("supervised",), fractions=100, seeds=2, head="linear",
    ...     init="encoder.safetensors",
    ... )
    >>> result.cells, [row["arm"] for row in result.rows]
    (4, ['supervised'])
    """
    given = known("experiment", options, ExperimentPlan, ExperimentDevice, ExperimentShard)
    where, shard = take(ExperimentDevice, given), take(ExperimentShard, given).shard
    plan = _plan(train, given)

    from wsitool.experiment.parts import experiment_part
    from wsitool.experiment.run import experiment as run

    words = command_words("experiment", [], out, plan.to_dict(), ExperimentPlan)
    if shard is None:
        return replace(run(plan, out, where=where, reporter=reporter_of(progress)), command=words)
    part = experiment_part(plan, out, shard=shard, where=where, reporter=reporter_of(progress))
    return replace(part, command=words)


def _plan(train: ExperimentPlan | Stores, options: dict[str, Any]) -> ExperimentPlan:
    if isinstance(train, ExperimentPlan):
        return replace(train, **options)
    paths = whole_stores(train)
    if len(paths) == 1 and Path(paths[0]).suffix in (".toml", ".json"):
        return read_plan(paths[0], **options)
    return ExperimentPlan(train=tuple(map(str, paths)), **options)
