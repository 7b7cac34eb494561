"""Attributes and columns of an HDF5 file without h5py's upper layer, which makes an open cost thrice as much.

Plain values are read here; whatever is not plain is left to h5py.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from wsitool.store.damage import damaged

__all__ = ["attribute_values", "plain_dtype"]

# As much as HDF5 puts into an object's header; longer texts lie on a heap and count here with their
# reference.
_LARGEST_ATTRIBUTE = 1 << 16
_TEXT = h5py.string_dtype()
# By class, as comparing types is what costs: first the type that wsitool writes.
_PLAIN: dict[int, tuple[tuple[Any, np.dtype[Any]], ...]] = {
    h5py.h5t.INTEGER: (
        (h5py.h5t.STD_I64LE, np.dtype("<i8")),
        (h5py.h5t.STD_U8LE, np.dtype("|u1")),
        (h5py.h5t.STD_I16LE, np.dtype("<i2")),
    ),
    h5py.h5t.FLOAT: ((h5py.h5t.IEEE_F32LE, np.dtype("<f4")), (h5py.h5t.IEEE_F64LE, np.dtype("<f8"))),
}


def plain_dtype(kind: Any) -> np.dtype[Any] | None:
    """The dtype whose bytes are those of an HDF5 type in the file; None where they may not be."""
    for of_file, dtype in _PLAIN.get(kind.get_class(), ()):
        if kind.equal(of_file):
            return dtype
    return None


def attribute_values(path: Path, item: Any, names: Iterable[str]) -> dict[str, Any]:
    """The attributes of `names` that h5py's id `item` has, as Python's own values, lists of text included."""
    there: set[bytes] = set()
    h5py.h5a.iterate(item, there.add)
    values: dict[str, Any] = {}
    for name in names:
        if name.encode() not in there:
            continue
        attribute = h5py.h5a.open(item, name.encode())
        # Sizes from the header, before anything is allocated for the value.
        shape = attribute.shape
        if attribute.get_storage_size() > _LARGEST_ATTRIBUTE or shape is None:
            raise damaged(path, f"the attribute '{name}' is larger than any that wsitool writes")
        value = _plain_value(attribute, shape)
        values[name] = _by_h5py(item, name) if value is None else value
    return values


def _plain_value(attribute: Any, shape: tuple[int, ...]) -> Any:
    """Texts and numbers as wsitool writes them; None for anything that takes more than a look."""
    kind = attribute.get_type()
    is_text = kind.get_class() == h5py.h5t.STRING and kind.is_variable_str()
    dtype = _TEXT if is_text else plain_dtype(kind)
    if dtype is None or len(shape) > 1:
        return None
    value: NDArray[Any] = np.empty(shape, dtype)
    attribute.read(value)
    read = value.tolist()
    if not is_text:
        return read
    # Bytes that are no UTF-8 are damage, which h5py would hand out as halves of characters.
    return [text.decode() for text in read] if shape else read.decode()


def _by_h5py(item: Any, name: str) -> Any:
    owner = h5py.Dataset(item) if isinstance(item, h5py.h5d.DatasetID) else h5py.Group(item)
    value = owner.attrs[name]
    value = value.tolist() if isinstance(value, np.generic | np.ndarray) else value
    for text in value if isinstance(value, list) else [value]:
        if isinstance(text, str):
            text.encode()
    return value
