"""Backbones by name, their weights from anywhere, and the encoder file others can load."""

from wsitool.backbones.build import build_backbone
from wsitool.backbones.card import EncoderCard, LineageStep, read_card
from wsitool.backbones.encoder import Encoder
from wsitool.backbones.export import export_encoder
from wsitool.backbones.files import encoder_file, save_encoder
from wsitool.backbones.placement import choose_device, keep_freed_memory, place

__all__ = [
    "Encoder",
    "EncoderCard",
    "LineageStep",
    "build_backbone",
    "choose_device",
    "encoder_file",
    "export_encoder",
    "keep_freed_memory",
    "place",
    "read_card",
    "save_encoder",
]
