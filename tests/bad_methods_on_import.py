"""A plugin whose import seeds torch: everything after it is less random than its user believes."""

from __future__ import annotations

import torch
from bad_methods import Good

torch.manual_seed(0)


class Seeds(Good):
    """Sound but for its module, arXiv:2005.10242."""
