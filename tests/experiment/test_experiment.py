import json
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from classify_stores import labelled_store
from experiment_plans import rows_named, run_and_die, small_data, small_plan
from sklearn.metrics import accuracy_score

from wsitool.base.lock import locked
from wsitool.errors import LabelError, StoreError, UnknownMethodError, UsageError
from wsitool.evaluation.amounts import percent
from wsitool.experiment.estimate import estimate
from wsitool.experiment.evaluation_splits import all_cells, auxiliary_data, open_splits
from wsitool.experiment.grid import chains_of
from wsitool.experiment.place import ExperimentDevice
from wsitool.experiment.plan import Arm
from wsitool.experiment.plan_file import read_plan
from wsitool.experiment.run import experiment
from wsitool.experiment.stages import last_stages, pretrainings
from wsitool.experiment.table import to_latex


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("experiment")
    result = experiment(small_plan(data), out)
    assert (result.cells, result.reused) == (16, 0)
    return out


def test_everything_promised_is_there(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names >= {"table2.md", "table2.csv", "table2.tex", "results.json", "report.html", "manifest.json"}
    assert len(list((finished / "cells").iterdir())) == 16
    report = (finished / "report.html").read_text()
    table = (finished / "table2.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in table[2:]] == [
        "| supervised",
        "| rotation+auxiliary",
        "| color baseline",
        "| always 'plain'",
    ]
    told = json.loads((finished / "results.json").read_text())
    assert [row["labelled_patches"] for row in told["color_baseline"]] == [15, 54]
    assert told["majority_class"] == {"class": "plain", "accuracy": pytest.approx(1 / 3)}
    # Folds: beside the pooled AUROC the mean of each fold's own.
    assert all(0 < row["auroc_per_fold"] <= 1 for row in told["rows"])
    assert any("the color baseline" in line for line in told["verdicts"])
    assert "rotation+auxiliary" in report and "(Holm)" in report
    assert "Intervals leave out each of the 6 test groups" in report


def test_figures_follow_from_the_cells(finished: Path, data: Path) -> None:
    row = next(
        row
        for row in json.loads((finished / "results.json").read_text())["rows"]
        if row["arm"] == "supervised" and row["fraction"] == 0.25
    )
    truth = [chosen.test.patches.labels for chosen in open_splits(small_plan(data))]
    accuracies = []
    for seed in range(2):
        called = []
        for fold in (1, 2):
            with np.load(finished / "cells" / f"supervised-25pct-seed{seed}-fold{fold}.npz") as cell:
                called.append(cell["logits"].argmax(1))
        accuracies.append(accuracy_score(np.concatenate(truth), np.concatenate(called)))
    assert row["mean"]["accuracy"] == pytest.approx(np.mean(accuracies))
    assert [seed["accuracy"] for seed in row["per_seed"]] == pytest.approx(accuracies)


def test_no_test_group_was_pretrained_on(finished: Path, data: Path) -> None:
    for chosen in open_splits(small_plan(data)):
        run = json.loads(
            (finished / "pretrain" / f"rotation+auxiliary-{chosen.name}-seed0" / "run.json").read_text()
        )
        test = set(chosen.test.patches.groups.tolist())
        groups = {group for step in run["card"]["lineage"] for group in step["groups"]}
        assert groups == {"k0", "k1"} | ({f"p{number}" for number in range(6)} - test)


def test_subsets_are_the_same_for_all_arms_and_nested(finished: Path) -> None:
    def subset(name: str) -> str:
        with np.load(finished / "cells" / name) as cell:
            return str(json.loads(str(cell["facts"]))["subset"])

    for seed in (0, 1):
        end = f"25pct-seed{seed}-fold1.npz"
        assert subset(f"supervised-{end}") == subset(f"rotation+auxiliary-{end}")
    subsets = json.loads((finished / "manifest.json").read_text())["subsets"]
    first = [entry for entry in subsets if entry["round"] == "fold1" and entry["seed"] == 0]
    small, large = (rows_named(entry["stores"]) for entry in first)
    assert [len(small), len(large)] == [entry["patches"] for entry in first]
    assert small < large


def test_finished_cells_are_reused_and_only_changed_ones_redone(
    finished: Path, data: Path, tmp_path: Path
) -> None:
    finished = Path(shutil.copytree(finished, tmp_path / "copy"))
    again = experiment(small_plan(data), finished)
    assert again.reused == again.cells == 16
    alone = {"methods": ("supervised",)}
    more = experiment(small_plan(data, fractions=(0.25, 0.5), **alone), finished)
    assert (more.cells, more.reused) == (8, 4)
    other = experiment(small_plan(data, fractions=(0.5,), c=0.2, **alone), finished)
    assert (other.cells, other.reused) == (4, 0)


def test_a_run_that_died_goes_on(data: Path, tmp_path: Path) -> None:
    plan = small_plan(data, methods=("supervised",), fractions=(1.0,))
    run_and_die(plan, tmp_path, cells=3)
    again = experiment(plan, tmp_path)
    assert (again.cells, again.reused) == (4, 3)


def test_without_test_and_folds_whole_groups_are_held_out(data: Path) -> None:
    (chosen,) = open_splits(small_plan(data, folds=None))
    train, test = (set(view.patches.groups.tolist()) for view in (chosen.train, chosen.test))
    assert not train & test and len(train | test) == 6 and len(test) == 2
    assert set(chosen.unlabelled.group_index.tolist()) == {int(name[1]) for name in train}


def test_pretraining_is_shared_by_fractions_unless_on_the_labelled_only(data: Path) -> None:
    shared = pretrainings(small_plan(data))
    assert list(shared) == [
        "rotation-auxiliary-seed0",
        "rotation+auxiliary-fold1-seed0",
        "rotation+auxiliary-fold2-seed0",
    ]
    own = pretrainings(small_plan(data, pretrain_on="labelled"))
    assert len(own) == 1 + 2 * 2 * 2  # the auxiliary one, and folds x fractions x seeds
    assert own["rotation+auxiliary-fold1-25pct-seed0"].patches == 15  # a quarter of 18 of each class, rounded


def test_auxiliary_data_by_name_and_by_number(data: Path, tmp_path: Path) -> None:
    for name, seed in (("lung", 70), ("more", 80)):
        labelled_store(tmp_path / name / f"{name}.h5", per_class=6, seed=seed)
    named = (f"kidney={data / 'other'}", f"lung={tmp_path / 'lung'}", str(tmp_path / "more"))
    arms = ("rotation+kidney", "rotation+lung:7", "rotation+lung:12", "rotation+auxiliary")
    plan = small_plan(data, auxiliary=named, methods=arms, folds=None)
    needed = {name: stage.patches for name, stage in pretrainings(plan).items() if "heldout" not in name}
    assert needed == {
        "rotation-kidney-seed0": 36,
        "rotation-lung-7-seed0": 7,
        "rotation-lung-12-seed0": 12,
        "rotation-auxiliary-seed0": 72,
    }
    few, more = (auxiliary_data(plan, Arm.parse(arm)) for arm in arms[1:3])
    assert set(few.row.tolist()) < set(more.row.tolist())
    of_two = auxiliary_data(plan, Arm.parse("rotation+kidney:2"))
    assert set(of_two.group_index.tolist()) == {0, 1}  # patients in turn
    with pytest.raises(UsageError, match=r"asks for 19 patches, and there are 18"):
        experiment(small_plan(data, auxiliary=named, methods=("rotation+lung:19",)), tmp_path / "x")
    one = small_plan(
        data, auxiliary=named, methods=("rotation+lung:7",), fractions=(1.0,), seeds=1, folds=None
    )
    experiment(one, tmp_path / "o")
    run = json.loads((tmp_path / "o" / "pretrain" / "rotation+lung-7-heldout-seed0" / "run.json").read_text())
    groups = [step["groups"] for step in run["card"]["lineage"] if step["groups"]]
    assert groups[0] == ["lung"] and len(groups) == 2


def test_small_amounts_of_labels_per_cent_and_per_class(data: Path, tmp_path: Path) -> None:
    plan = small_plan(
        data, methods=("supervised",), fractions=(0.06, 1.0), labels_per_class=(2, 4), seeds=1, validation=0
    )
    result = experiment(plan, tmp_path / "o")
    assert (result.cells, len(list((tmp_path / "o" / "cells").glob("supervised-2each-seed0-fold*.npz")))) == (
        8,
        2,
    )
    told = json.loads((tmp_path / "o" / "results.json").read_text())
    assert [
        (row["fraction"], row.get("labels_per_class"), row["labelled_patches"]) for row in told["rows"]
    ] == [
        (None, 2, 6),
        (None, 4, 12),
        (0.06, None, 3),
        (1.0, None, 54),
    ]
    head = (tmp_path / "o" / "table2.md").read_text().splitlines()[0]
    assert head.startswith("| arm | 2 per class (6 patches) | 4 per class (12 patches) | 6 % (3 patches) | ")
    subsets = json.loads((tmp_path / "o" / "manifest.json").read_text())["subsets"]
    assert [entry.get("labels_per_class") for entry in subsets[:4]] == [2, 4, None, None]
    assert experiment(plan, tmp_path / "o").reused == 8


def test_estimate_counts_what_is_left(finished: Path, data: Path) -> None:
    left = estimate(small_plan(data, fractions=(0.25, 0.5)), finished, devices=("cpu",))
    assert (left.cells, left.finished, left.pretrained_images) == (16, 8, 0)
    assert len(left.pretrainings) == 3 and all(stage.finished for stage in left.pretrainings.values())
    more = estimate(small_plan(data, methods=("supervised", "rotation")), finished, devices=("cpu",))
    assert (more.finished, more.pretrained_images) == (8, 4 * 2 * 54)  # rotations, folds, patches


def test_arms_are_added_to_a_finished_run(finished: Path, data: Path, tmp_path: Path) -> None:
    finished = Path(shutil.copytree(finished, tmp_path / "copy"))
    more = experiment(small_plan(data, methods=("supervised", "rotation", "rotation+auxiliary")), finished)
    assert (more.cells, more.reused) == (24, 16)
    assert {arm for arm, _ in more.results.arms} == {"supervised", "rotation", "rotation+auxiliary"}


def test_penalty_is_chosen_inside_each_training_subset(data: Path, tmp_path: Path) -> None:
    plan = small_plan(data, methods=("supervised",), fractions=(1.0,), c="auto", validation=0)
    result = experiment(plan, tmp_path)
    with np.load(tmp_path / "cells" / "supervised-100pct-seed0-fold1.npz") as cell:
        facts = json.loads(str(cell["facts"]))
    assert facts["c"] == facts["c_search"]["c"] and facts["c_search"]["by"] == "group"
    assert facts["trained_on"] == 54 and facts["temperature"] != 1
    row = json.loads((tmp_path / "results.json").read_text())["rows"][0]
    assert sum(row["cells_by_penalty"].values()) == result.cells == 4
    assert "chosen inside each training subset" in (tmp_path / "report.html").read_text()
    name = "my_100%"  # what LaTeX would take for markup
    arms = {(name, 1.0): result.results.full}
    renamed = replace(result.results, baseline=name, plan=replace(plan, methods=(name,)), arms=arms)
    assert r"my\_100\% & " in to_latex(renamed)


def test_a_killed_run_goes_on(data: Path, tmp_path: Path) -> None:
    words = f"experiment --train {data / 'train'} --methods supervised --fractions 50,100 --seeds 6 --folds 2"
    words += f" --backbone resnet18 --init random --head linear --c 0.1 --out {tmp_path / 'o'}"
    main = "from wsitool.cli import main; main()"
    child = subprocess.Popen([sys.executable, "-c", main, *words.split()], stderr=subprocess.DEVNULL)
    cells = tmp_path / "o" / "cells"
    while child.poll() is None and len(list(cells.glob("*.npz"))) < 5:
        time.sleep(0.01)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    there = len(list(cells.glob("*.npz")))
    changes = {"methods": ("supervised",), "fractions": (0.5, 1.0), "seeds": 6, "batch_size": 64}
    again = experiment(small_plan(data, auxiliary=(), **changes), tmp_path / "o")
    assert again.cells == 24 and 5 <= again.reused == there < 24


def test_plan_file_and_its_mistakes(tmp_path: Path, data: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text('train = "a"\nfractions = [5, 100]\nmethods = ["supervised"]\n')
    assert read_plan(path, seeds=7).fractions == (0.05, 1.0)
    assert read_plan(path, seeds=7).seeds == 7
    path.write_text('train = "a"\nfractions = [1, 0.5, 25]\nmethods = ["supervised"]\n')
    assert read_plan(path).fractions == (0.01, 0.005, 0.25)  # 1 is not 100 % here
    path.write_text('train = "a"\nfractions = [0.05, 1]\nmethods = ["supervised"]\n')
    assert read_plan(path).fractions == (0.05, 1.0)
    path.write_text('train = "a"\nspeed = 3\n')
    with pytest.raises(UsageError, match="unknown keys speed"):
        read_plan(path)
    with pytest.raises(UsageError, match="needs --auxiliary"):
        small_plan(data, auxiliary=())
    for name in ("supervised+auxiliary", "simclr+", "simclr+kidney:0", "+kidney", "a+b+c"):
        with pytest.raises(UsageError, match="supervised, METHOD, METHOD\\+DATA, "):
            Arm.parse(name)
    with pytest.raises(UsageError, match=r"arm rotation\+lung needs --auxiliary lung=STORES"):
        small_plan(data, methods=("supervised", "rotation+lung"))
    with pytest.raises(LabelError, match="leaves no sample"):
        experiment(small_plan(data, fractions=(0.01, 1.0)), tmp_path / "x")
    with pytest.raises(LabelError, match="a single patch of plain, and 2 of each class are needed"):
        experiment(small_plan(data, fractions=(0.06, 1.0)), tmp_path / "x")
    for name, message in (
        ("supcon", "'supcon' learns from labels, so that an arm of it would know more of them"),
        ("mae", "'mae' needs a backbone with tokens, and squeezenet1_1 has none"),
    ):
        with pytest.raises(UsageError, match=message):
            experiment(small_plan(data, methods=(name,), backbone="squeezenet1_1"), tmp_path / "x")
    with pytest.raises(UnknownMethodError, match=r"There is no method 'simclrr': did you mean 'simclr'"):
        experiment(small_plan(data, methods=("supervised", "simclrr")), tmp_path / "x")
    with pytest.raises(UsageError, match=r"pretrained on 3 group\(s\) of the test data \(p"):
        experiment(small_plan(data, auxiliary=(str(data / "train"),)), tmp_path / "x")
    assert not (tmp_path / "x").exists()
    with pytest.raises(LabelError, match="a single patch of plain"):
        estimate(small_plan(data, fractions=(0.06, 1.0)), tmp_path / "x", devices=("cpu",))


def test_near_duplicates_across_the_split_are_told(data: Path, tmp_path: Path) -> None:
    labelled_store(tmp_path / "again.h5", per_class=6, seed=0)  # the pictures of the training patient p0
    changes = {"methods": ("supervised",), "fractions": (1.0,), "seeds": 1, "folds": None}
    experiment(small_plan(data, test=(str(tmp_path / "again.h5"),), **changes), tmp_path / "o")
    few, note = json.loads((tmp_path / "o" / "results.json").read_text())["notes"]
    assert few.startswith("The figures rest on 1 test group (patients): fewer than 5")
    assert note.startswith("test: ") and "look like training patches" in note
    page = (tmp_path / "o" / "report.html").read_text()
    assert "look like training patches" in page
    assert "compared at 1 label fraction with 1 label seed each" in page


def test_chains_part_what_does_not_share_an_encoder(data: Path) -> None:
    names = ("supervised", "rotation", "rotation+auxiliary")
    plan = small_plan(data, methods=names)
    chains = chains_of(plan, all_cells(plan))
    parts = [(chain[0].arm.name, {cell.split for cell in chain}) for chain in chains]
    assert parts == [
        ("supervised", {0, 1}),
        ("rotation", {0}),
        ("rotation", {1}),
        ("rotation+auxiliary", {0, 1}),
    ]
    splits = open_splits(plan)
    needed = [
        {
            stage.name
            for cell in chain
            for last in last_stages(plan, cell, splits[cell.split])
            for stage in (last, last.before)
            if stage is not None
        }
        for chain in chains
    ]
    assert sum(map(len, needed)) == len(set().union(*needed))
    tuned = small_plan(data, methods=("supervised",), head="finetune")
    assert len(chains_of(tuned, all_cells(tuned))) == 2


def test_what_is_said_of_fractions_and_to_latex(finished: Path) -> None:
    assert (percent(0.25), percent(0.025)) == ("25 %", "2.5 %")
    told = json.loads((finished / "results.json").read_text())["verdicts"]
    assert told[0].startswith("supervised with 100 % of the labels is the mark: ")
    assert told[0].count("%") == 5 and "With less: 25 %: " in told[0]  # the mark itself is not repeated
    text = (finished / "table2.tex").read_text()
    assert text.startswith("% needs \\usepackage{booktabs}\n\\begin{tabular}{lrr}\n")
    for line in text.splitlines()[3:-1]:
        assert not re.search(r"(?<!\\)[%_#$]", line)
    assert text.count(" & ") == 5 * 2  # head, two arms, and what stands beside them


def test_two_experiments_into_one_folder_are_kept_apart(data: Path, tmp_path: Path) -> None:
    with locked(tmp_path / "e", what="e"):
        with pytest.raises(StoreError, match="is being written by process"):
            experiment(small_plan(data), tmp_path / "e")
        assert not list((tmp_path / "e").iterdir())


_PARENT = """
import multiprocessing, os, signal, sys, time
from concurrent.futures import ProcessPoolExecutor
from wsitool.experiment.grid import _take_device
if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    queue.put("cpu")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_take_device, initargs=(queue, 1)) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        pool.submit(time.sleep, 60)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_workers_end_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(_PARENT)
    told = subprocess.run([sys.executable, script], stdout=subprocess.PIPE, text=True, check=False)
    assert told.returncode == -signal.SIGKILL
    worker, patience = int(told.stdout), 100
    while _is_alive(worker) and patience:
        patience -= 1
        time.sleep(0.1)
    assert not _is_alive(worker)


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.slow
def test_two_devices_give_the_same_as_one(data: Path, tmp_path: Path) -> None:
    plan = small_plan(data, methods=("supervised", "rotation"), seeds=1, pretrain_epochs=1)
    one = experiment(plan, tmp_path / "one", where=ExperimentDevice(device="cpu"))
    two = experiment(plan, tmp_path / "two", where=ExperimentDevice(device="cpu,cpu"))
    for place, found in one.results.arms.items():
        for a, b in zip(found.runs, two.results.arms[place].runs, strict=True):
            assert np.abs(a - b).max() < 1e-5
