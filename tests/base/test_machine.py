from __future__ import annotations

import pytest
import torch

from wsitool.base.machine import explain_memory, how_it_ended, is_memory_short, is_peer_lost
from wsitool.errors import MemoryShortError


def test_short_memory_is_known_by_its_many_words() -> None:
    with pytest.raises(RuntimeError) as error:
        torch.empty(1 << 60)
    assert is_memory_short(error.value)  # in torch's own words of this version
    assert is_memory_short(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert is_memory_short(MemoryError()) and is_memory_short(RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"))
    assert not is_memory_short(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_memory_short(ValueError("out of memory"))


def test_the_sentence_says_how_much_was_asked_for() -> None:
    for words, amount in (
        ("[enforce fail at alloc_cpu.cpp:127] you tried to allocate 97200000000 bytes. Error", "97.2 GB"),
        ("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has", "2.50 GiB"),
    ):
        error = RuntimeError(f"not enough memory: {words}")
        message = rf"\({amount} more were asked for\): lower it"
        with pytest.raises(MemoryShortError, match=message), explain_memory("lower it"):
            raise error


def test_a_lost_peer_is_known_by_gloos_words() -> None:
    assert is_peer_lost(RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:538] Read error"))
    assert is_peer_lost(torch.distributed.DistBackendError("NCCL communicator was aborted"))
    assert not is_peer_lost(RuntimeError("expected scalar type Float"))


def test_an_error_of_another_kind_passes() -> None:
    message = r"There is not enough memory \(MemoryError\): buy more\."
    with pytest.raises(MemoryShortError, match=message), explain_memory("buy more"):
        raise MemoryError
    with pytest.raises(RuntimeError, match="shapes"), explain_memory("buy more"):
        raise RuntimeError("shapes")


def test_ends_of_processes_in_words() -> None:
    assert how_it_ended(-9).startswith("was killed by SIGKILL, which the system does where memory")
    assert how_it_ended(-15) == "was ended by SIGTERM"
    assert how_it_ended(3) == "ended with exit code 3"
