"""Self-supervised pretraining on pytorch-lightning: any installed method, resumable to the bit."""

from wsitool.training.config import PretrainConfig
from wsitool.training.quiet import is_first_process
from wsitool.training.result import PretrainResult
from wsitool.training.run import pretrain

__all__ = ["PretrainConfig", "PretrainResult", "is_first_process", "pretrain"]
