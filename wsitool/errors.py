"""Every error wsitool raises on purpose, so that callers can catch exactly what they mean.

    WsitoolError                    exit code 1
    ├── UsageError                  exit code 2: options or inputs that cannot work together
    │   └── UnknownMethodError      no installed SSL method of that name
    ├── SlideError                  one slide cannot be processed; others can
    │   ├── UnsupportedSlideError   no reader opens the file
    │   │   └── RefusedSlideError   it contradicts itself or claims too much: no other reader may guess
    │   ├── MissingMppError         a resolution was asked for and the slide states none
    │   ├── RegionReadError         pixels of one region cannot be decoded
    │   └── NoTissueError           nothing is left after filtering
    ├── StoreError                  a patch store cannot be used
    │   ├── NotAStoreError          another program's file, or another kind of ours
    │   ├── SchemaVersionError      written by another schema version
    │   └── CorruptStoreError       truncated, replaced, or not matching its own index
    ├── LabelError                  a label table does not fit the data
    ├── EncoderError                weights do not fit the backbone, or are not to be had
    │   └── NoWeightsError          exit code 2: there is no such file, folder or name
    ├── MemoryShortError            the machine has not enough memory for what was asked
    ├── PluginError                 an installed part is broken, duplicated or too new
    └── TrainingError               training cannot start or go on

Each message is one sentence that says what was expected, what came and what to do.
"""

__all__ = [
    "CorruptStoreError",
    "EncoderError",
    "LabelError",
    "MemoryShortError",
    "MissingMppError",
    "NoTissueError",
    "NoWeightsError",
    "NotAStoreError",
    "PluginError",
    "RefusedSlideError",
    "RegionReadError",
    "SchemaVersionError",
    "SlideError",
    "StoreError",
    "TrainingError",
    "UnknownMethodError",
    "UnsupportedSlideError",
    "UsageError",
    "WsitoolError",
]


class WsitoolError(Exception):
    """Base of all errors raised on purpose; `exit_code` is what the command line returns.

    >>> try:
    ...     wsitool.open_store("missing.h5")
    ... except wsitool.WsitoolError as error:
    ...     print(error)
    There is no patch store at missing.h5: check the path, or write one with 'wsitool tile'.
    """

    exit_code = 1


class UsageError(WsitoolError):
    """Options or inputs that cannot work together."""

    exit_code = 2


class UnknownMethodError(UsageError):
    """No installed SSL method has the name that was asked for."""


class SlideError(WsitoolError):
    """One slide cannot be processed; the others of the run still can."""


class UnsupportedSlideError(SlideError):
    """No reader opens the file."""


class RefusedSlideError(UnsupportedSlideError):
    """The file contradicts itself, or claims more than limits allow: a laxer reader would show wrong pixels.

    Other UnsupportedSlideErrors mean "not my kind", after which another reader is tried; this one ends it.
    """


class MissingMppError(SlideError):
    """A resolution in um/px was asked for and the slide states none."""


class RegionReadError(SlideError):
    """The pixels of one region cannot be decoded."""


class NoTissueError(SlideError):
    """No patch of the slide is left after filtering."""


class StoreError(WsitoolError):
    """A patch store cannot be used."""


class NotAStoreError(StoreError):
    """The file is sound as far as can be seen, but no patch store."""


class SchemaVersionError(StoreError):
    """The store was written with another version of the schema."""


class CorruptStoreError(StoreError):
    """The store is truncated, was replaced, or contradicts its own index."""


class LabelError(WsitoolError):
    """A label table does not fit the data."""


class EncoderError(WsitoolError):
    """Encoder weights do not fit the backbone, or cannot be obtained."""


class NoWeightsError(EncoderError):
    """There is no weights file, run folder or known name as it was given."""

    exit_code = 2


class MemoryShortError(WsitoolError):
    """The machine or its GPU has not enough memory for what was asked."""


class PluginError(WsitoolError):
    """An installed method, reader, tissue detector or export is broken, duplicated or for a newer wsitool."""


class TrainingError(WsitoolError):
    """Training cannot start or go on."""
