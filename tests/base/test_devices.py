import pytest
import torch
from click.testing import CliRunner

from wsitool.base.devices import device_names, one_device
from wsitool.cli import main
from wsitool.errors import UsageError
from wsitool.training.hardware import training_device


@pytest.mark.parametrize(
    ("device", "names"),
    [
        ("auto", ["auto"]),
        ("cuda:0,cuda:1", ["cuda:0", "cuda:1"]),
        ("cuda:0-2", ["cuda:0", "cuda:1", "cuda:2"]),
        ("cuda:3, cuda:1", ["cuda:3", "cuda:1"]),
        ("cpu,cpu", ["cpu", "cpu"]),
    ],
)
def test_names(device: str, names: list[str]) -> None:
    assert list(device_names(device)) == names


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("4", r"for 4 of them cuda:0-3"),
        ("gpu", "expected auto, cpu, cuda"),
        ("cuda:1,", "expected auto"),
        ("cuda:1-0", "names none"),
        ("cuda:0,cuda:0", "names one twice"),
    ],
)
def test_what_is_no_name(device: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        device_names(device)


def test_one_is_not_several() -> None:
    assert one_device("cuda:1") == "cuda:1"
    with pytest.raises(UsageError, match=r"are 2, and this computes on one"):
        one_device("cuda:0,cuda:1")


def test_each_process_has_the_device_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[torch.device] = []
    monkeypatch.setattr("wsitool.training.hardware.device_type", lambda _: "cuda")
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    numbers = [training_device("cuda:3,cuda:1", local_rank=rank).index for rank in (0, 1)]
    assert numbers == [3, 1] == [each.index for each in taken]
    # Without numbers they are the processes' own, as before there was a choice.
    assert [training_device("auto,auto", local_rank=rank).index for rank in (0, 1)] == [0, 1]
    assert training_device("cuda", local_rank=0).index == 0
    for beyond in ("cuda:4", "cuda:2-4"):
        with pytest.raises(UsageError, match=f"--device {beyond} here: this machine has 4 cuda, cuda:0-3"):
            training_device(beyond, local_rank=0)


@pytest.mark.parametrize(
    "words",
    [
        ("pretrain", ".", "--method", "simclr", "--devices", "4"),
        ("pretrain", ".", "--method", "simclr", "--accelerator", "cuda"),
        ("experiment", "--train", ".", "--devices", "cuda:0,cuda:1"),
        ("bench", ".", "--gpus", "1"),
    ],
)
def test_the_old_spelling_names_the_new(words: tuple[str, ...]) -> None:
    told = CliRunner().invoke(main, [*words, "--out", "o"] if words[0] != "bench" else list(words))
    assert told.exit_code == 2 and "here it is '--device'" in told.output, told.output
