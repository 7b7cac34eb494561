"""HDF5 files changed as another program would change them."""

from __future__ import annotations

from typing import Any

import h5py

__all__ = ["replaced"]


def replaced(file: h5py.File, name: str, **options: Any) -> None:
    old = {} if name not in file else dict(file[name].attrs)
    del file[name]
    data = file.create_dataset(name, **options)
    data.attrs.update(old)
