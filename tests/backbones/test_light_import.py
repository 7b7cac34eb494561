"""A network of torchvision is built, run and timed without torch's compiler, which is there if asked for."""

from __future__ import annotations

import subprocess
import sys

_SCRIPT = """
import sys
import torch
from wsitool.backbones.build import build_backbone
from wsitool.backbones.precision import inference
from wsitool.classify.speed import measure_speed
network = build_backbone("resnet18", init="random").eval()
with inference(torch.device("cpu")):
    network(torch.ones(1, 3, 32, 32))
speed = measure_speed(network, image_size=16, batch_size=2, device="cpu")
assert min(speed.step, speed.forward, speed.view) > 0, "a training step was timed, too"
assert not {"torch._dynamo", "torch._dynamo.utils", "sympy"} & set(sys.modules), "the compiler was imported"
import torchvision
boxes = torch.tensor([[0, 0.0, 0.0, 4.0, 4.0]])
pooled = torchvision.ops.roi_align(torch.ones(1, 1, 8, 8), boxes, 2)
assert pooled.shape == (1, 1, 2, 2) and bool((pooled == 1).all())
from torchvision.ops import roi_align as module
supported = sys.modules["torchvision.ops.roi_align"].is_compile_supported("cpu")
import torch._dynamo.utils
assert supported == torch._dynamo.utils.is_compile_supported("cpu")
assert torch._dynamo.utils.__file__ and callable(torch._dynamo.optimize)
"""


def test_the_compiler_waits_until_it_is_needed() -> None:
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
