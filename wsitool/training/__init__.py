"""Self-supervised pretraining on pytorch-lightning: any installed method, resumable to the bit."""

from wsitool.training.config import PretrainConfig
from wsitool.training.run import PretrainResult, pretrain

__all__ = ["PretrainConfig", "PretrainResult", "pretrain"]
