"""Options are declared once, as fields; files of options do what the options themselves do."""

from __future__ import annotations

import importlib
import os
import tomllib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from wsitool.base.parameters import Params
from wsitool.classify.settings import ClassifyOptions, Settings
from wsitool.cli import COMMANDS, main
from wsitool.curate.import_options import ImportOptions
from wsitool.experiment.plan import ExperimentPlan
from wsitool.predict.options import EmbedOptions, PredictOptions
from wsitool.slides.spec import QualityThresholds, TileSpec
from wsitool.store.options import DecodeOptions
from wsitool.tiling.options import TileOptions
from wsitool.training.config import PretrainConfig

_DECLARED: list[tuple[str, type[Params]]] = [
    ("tile", TileSpec),
    ("tile", QualityThresholds),
    ("tile", TileOptions),
    ("audit", QualityThresholds),
    ("pretrain", PretrainConfig),
    ("classify", Settings),
    ("classify", ClassifyOptions),
    ("import", ImportOptions),
    ("embed", EmbedOptions),
    ("predict", PredictOptions),
    ("bench", DecodeOptions),
]
_LARGE = ("tile", "audit", "import", "pretrain", "classify", "predict", "embed", "experiment")
_ENOUGH: dict[str, list[str]] = {
    "experiment": ["--train", "s"],
    "predict": [".", "slide.svs"],
    "classify": ["."],
    "import": ["folder"],
    "pretrain": [".", "--method", "simclr"],
    "audit": ["slide.svs"],
    "embed": [".", "--encoder", "random"],
}


def _command(name: str) -> click.Command:
    command: click.Command = importlib.import_module(COMMANDS[name][0]).command
    return command


def _words(name: str, out: Path) -> list[str]:
    return [name, *_ENOUGH.get(name, ["s"]), *([] if name == "audit" else ["--out", str(out)])]


@pytest.mark.parametrize(("name", "kind"), _DECLARED)
def test_every_field_is_an_option_with_its_default(name: str, kind: type[Params]) -> None:
    options = {parameter.name: parameter for parameter in _command(name).params}
    for spec in kind.hparams():
        option = options[spec.name]
        assert option.required or option.default == spec.default
        assert spec.help in (option.help or "")  # type: ignore[attr-defined]


def test_options_of_an_experiment_leave_the_plan_as_it_is() -> None:
    command = _command("experiment")
    with command.make_context("experiment", ["--out", "o"]) as context:
        assert all(context.params[name] in (None, ()) for name in ExperimentPlan.names())


@pytest.mark.parametrize(("typed", "share"), [("1%", 0.01), ("100", 1.0), ("2.5", 0.025), ("0.3%", 0.003)])
def test_fractions_are_percentages_for_people_and_shares_in_files(
    typed: str, share: float, tmp_path: Path
) -> None:
    words = ["experiment", *_ENOUGH["experiment"], "--out", str(tmp_path / "o")]
    shown = CliRunner().invoke(main, [*words, "--fractions", typed, "--print-config"])
    assert tomllib.loads(shown.stdout)["fractions"] == [share]
    file = tmp_path / "options.toml"
    file.write_text(shown.stdout)
    again = CliRunner().invoke(main, [*words, "--config", str(file), "--print-config"])
    assert tomllib.loads(again.stdout)["fractions"] == [share]


@pytest.mark.parametrize("option", ["--methods", "--fractions", "--pretrain-lr"])
@pytest.mark.parametrize("nothing", ["", " ", ",", " , "])
def test_a_list_of_nothing_is_refused(option: str, nothing: str, tmp_path: Path) -> None:
    words = ["experiment", *_ENOUGH["experiment"], "--out", str(tmp_path / "o")]
    told = CliRunner().invoke(main, [*words, option, nothing])
    assert told.exit_code == 2 and f"{option}': expected at least one value, got {nothing!r}" in told.output


def test_one_rate_of_pretraining_is_a_list_of_one(tmp_path: Path) -> None:
    file = tmp_path / "options.toml"
    file.write_text("pretrain_lr = 1e-5\nfractions = [5, 100]\n")
    words = ["experiment", *_ENOUGH["experiment"], "--out", str(tmp_path / "o"), "--config", str(file)]
    shown = tomllib.loads(CliRunner().invoke(main, [*words, "--print-config"]).stdout)
    assert (shown["pretrain_lr"], shown["fractions"]) == ([1e-5], [0.05, 1.0])


@pytest.mark.parametrize("name", _LARGE)
def test_what_is_printed_reads_back_as_the_same(name: str, tmp_path: Path) -> None:
    shown = CliRunner().invoke(main, [*_words(name, tmp_path / "o"), "--print-config"])
    assert shown.exit_code == 0, shown.output
    assert not (tmp_path / "o").exists()
    file = tmp_path / "options.toml"
    file.write_text(shown.stdout)
    again = CliRunner().invoke(main, [*_words(name, tmp_path / "o"), "--config", str(file), "--print-config"])
    assert again.exit_code == 0, again.output
    assert tomllib.loads(again.stdout) == tomllib.loads(shown.stdout)


def test_a_file_gives_options_and_the_command_line_wins(tmp_path: Path) -> None:
    file = tmp_path / "options.toml"
    file.write_text('patch-size = 64\nmpp = 1\nformat = "zarr"\noverwrite = true\n')
    words = [*_words("tile", tmp_path / "o"), "--config", str(file), "--mpp", "0.5", "--print-config"]
    values = tomllib.loads(CliRunner().invoke(main, words).stdout)
    assert (values["patch_size"], values["mpp"], values["format"]) == (64, 0.5, "zarr")
    assert values["overwrite"] is True


def test_method_options_come_from_the_file_too(tmp_path: Path) -> None:
    file = tmp_path / "options.toml"
    file.write_text("temperature = 0.2\nepochs = 7\n")
    words = [*_words("pretrain", tmp_path / "o"), "--config", str(file), "--print-config"]
    values = tomllib.loads(CliRunner().invoke(main, words).stdout)
    assert (values["temperature"], values["epochs"]) == (0.2, 7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("patch_sizes = 3\n", "has unknown keys patch_sizes"),
        ("patch_size =\n", "cannot be read as TOML"),
        ('patch_size = "large"\n', "not a valid integer"),
        ("patch_size = 0\n", "--patch-size must be from 1 to 16384, got 0"),
        ("mpp = nan\n", "expected a finite number, got nan"),
        ('codec = "png"\n', "png"),
        (f"mpp = {'[' * 5000}\n", "cannot be read as TOML"),
    ],
)
def test_files_that_cannot_be_are_one_sentence(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "options.toml"
    file.write_text(text)
    failed = CliRunner().invoke(main, [*_words("tile", tmp_path / "o"), "--config", str(file)])
    assert failed.exit_code == 2 and message in failed.output, failed.output
    assert not (tmp_path / "o").exists()


def test_only_a_regular_file_is_one_of_options(tmp_path: Path) -> None:
    """A pipe would be waited for, and a device is empty or has no end."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/null"), Path("/dev/zero")):
        failed = CliRunner().invoke(main, [*_words("tile", tmp_path / "o"), "--config", str(path)])
        assert failed.exit_code == 2 and "it is no regular file" in failed.output, failed.output


@pytest.mark.parametrize(
    "words",
    [
        ["pretrain", ".", "--method", "simclr", "--out", "o", "--epochs", "0"],
        ["pretrain", ".", "--method", "simclr", "--out", "o", "--lr", "much"],
        ["pretrain", ".", "--method", "simclr", "--out", "o", "--batch-size", "auto", "--device", "cpu,cpu"],
        ["classify", "s", "--out", "o", "--lr", "-1"],
        ["predict", "run", "s", "--out", "o", "--stride", "0"],
        ["experiment", "--train", "s", "--out", "o", "--seeds", "0"],
    ],
    ids=lambda words: words[0],
)
def test_what_cannot_be_is_said_before_torch_is_imported(words: list[str], tmp_path: Path) -> None:
    import subprocess
    import sys

    code = (
        "import sys\nfrom wsitool.cli import main\n"
        f"try: main({words!r})\nexcept SystemExit as end: print(end.code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    # Only a method's own options are not known before its plugin, and with it torch, is there.
    assert done.stdout.split("\n")[-2] == "2 False", (done.stdout, done.stderr)


@pytest.mark.parametrize(
    "words",
    [
        ["classify", "s", "--encoder", "e", "--out", "o"],
        ["embed", "s", "--encoder", "e", "--out", "o"],
        ["predict", "run", "s", "--out", "o"],
        ["experiment", "--train", "s", "--methods", "supervised", "--out", "o"],
        ["bench", "s"],
    ],
    ids=lambda words: words[0],
)
def test_the_first_line_comes_before_torch(words: list[str], tmp_path: Path) -> None:
    import subprocess
    import sys

    for name in ("s", "run"):
        (tmp_path / name).mkdir()
    code = (
        "import sys\nfrom wsitool.base import console\nfrom wsitool.cli import main\n"
        "console._PlainReporter.say = lambda self, line: print(line, 'torch' in sys.modules)\n"
        f"try: main({words!r})\nexcept SystemExit as end: print(end.code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert lines[0] == "Starting PyTorch ... False", (done.stdout, done.stderr)
    assert lines[-1] in ("1 True", "2 True"), (done.stdout, done.stderr)


def test_the_first_line_of_pretrain_waits_for_torch_alone(tmp_path: Path) -> None:
    """Its method's options are read from the plugin, which imports torch; networks come after the line."""
    import subprocess
    import sys

    words = ["pretrain", ".", "--method", "simclr", "--out", "o"]
    code = (
        "import sys\nfrom wsitool.base import console\nfrom wsitool.cli import main\n"
        "heavy = {'torch', 'torch._dynamo', 'torchvision', 'sympy', 'timm', 'scipy', 'skimage'}\n"
        "console._PlainReporter.say = lambda self, line: print(line, *sorted(heavy & set(sys.modules)))\n"
        f"main({words!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.splitlines()[0] == "Starting PyTorch ... torch", (done.stdout, done.stderr)


@pytest.mark.parametrize(("name", "option"), [("classify", "--cache"), ("tile", "--annotations")])
def test_no_text_is_no_path(name: str, option: str, tmp_path: Path) -> None:
    told = CliRunner().invoke(main, [*_words(name, tmp_path / "o"), option, ""])
    assert told.exit_code == 2 and f"{option} must not be empty: leave it out instead." in told.output
    assert not (tmp_path / "o").exists()
