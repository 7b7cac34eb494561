from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner, Result
from patch_stores import patch_folder

from wsitool.cli import main


def _run(*words: str | Path) -> Result:
    return CliRunner().invoke(main, ["pretrain", *map(str, words)])


def test_the_methods_parameters_are_options_in_their_own_section() -> None:
    shown = _run("--method", "simclr", "--help")
    assert shown.exit_code == 0
    own, engine = shown.output.split("Options of simclr:")[1].split("\nOptions:")
    assert "--temperature FLOAT" in own and "[above 0]" in own and "[default: 0.5]" in own
    assert "--d4 / --no-d4" in own and "--epochs" not in own
    assert "--epochs INTEGER" in engine and "--temperature FLOAT" not in engine
    byol = " ".join(_run("--method", "byol", "--help").output.split())
    assert "lars at lr 0.2 for each 256 patches of a step, cosine, 1% warm-up, weight decay 1.5e-06." in byol
    assert "Options of rotation" in _run("--method=rotation", "--help").output
    assert "Add --method NAME before --help" in _run("--help").output


def test_a_run_from_the_command_line(tmp_path: Path) -> None:
    stores = patch_folder(tmp_path / "kidney", each=4)
    quick = ["--backbone", "resnet18", "--init", "random", "--epochs", "1", "--batch-size", "4", "--json"]
    done = _run(stores, "--method", "simclr", "--temperature", "0.2", "--out", tmp_path / "r", *quick)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["lineage"] == "random -> kidney"
    assert json.loads((tmp_path / "r" / "run.json").read_text())["params"]["temperature"] == 0.2
    preset = _run(
        stores, "--method", "simclr", "--preset", "histology", "--no-d4", "--out", tmp_path / "h", *quick
    )
    assert preset.exit_code == 0, preset.output
    params = json.loads((tmp_path / "h" / "run.json").read_text())["params"]
    assert (params["d4"], params["min_scale"]) == (False, 0.3)


def test_errors_are_one_sentence_with_exit_code_2(tmp_path: Path) -> None:
    stores = patch_folder(tmp_path / "kidney", each=2)
    for words, message in (
        (("--method", "simclrr"), "Error: There is no method 'simclrr': did you mean 'simclr'?"),
        (("--method", "simclr", "--temperature", "0"), "Error: --temperature must be above 0, got 0.0."),
        (("--method", "simclr", "--preset", "none"), "Error: There is no preset 'none'"),
    ):
        failed = _run(stores, "--out", tmp_path / "r", "--init", "random", *words)
        assert failed.exit_code == 2
        *start, sentence = failed.stderr.strip().splitlines()
        assert sentence.startswith(message) and start in ([], ["Starting PyTorch ..."])
    assert (
        "No such option '--temperature'" in _run(stores, "--method", "rotation", "--temperature", "1").stderr
    )
    assert not (tmp_path / "r").exists()


def test_one_command_may_be_queued_again_and_again(tmp_path: Path) -> None:
    stores = patch_folder(tmp_path / "kidney", each=4)
    words = [stores, "--method", "rotation", "--out", tmp_path / "r", "--backbone", "squeezenet1_1"]
    words += ["--init", "random", "--epochs", "1", "--batch-size", "4"]
    none = _run(*words, "--resume")
    assert none.exit_code == 2 and "leave out --resume, or pass --resume auto" in none.stderr
    assert _run(*words, "--resume", "auto").exit_code == 0
    before = (tmp_path / "r" / "encoder.safetensors").read_bytes()
    for resume in (("--resume", "auto"), ("--resume=auto",), ("--resume",)):
        again = _run(*words, *resume)
        assert again.exit_code == 0 and "is finished, and is left as it is" in again.stderr
    assert (tmp_path / "r" / "encoder.safetensors").read_bytes() == before
    assert _run(*words).exit_code == 0  # whoever forgets that it is there loses nothing
    assert _run(*words, "--resume", "later").exit_code == 2
    assert _run("--resume", *words).exit_code == 2  # stores after it would be taken for its value
