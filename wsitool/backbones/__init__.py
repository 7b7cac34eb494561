"""Backbones by name, their weights from anywhere, and the encoder file others can load."""
