"""Cutting slides into patch stores: every needed native tile is decoded once, every failure is on record."""

from wsitool.tiling.inputs import SlideInput, find_slides
from wsitool.tiling.results import RunResult, SlideResult
from wsitool.tiling.run import tile_slide, tile_slides
from wsitool.tiling.slide_task import SlideTask

__all__ = ["RunResult", "SlideInput", "SlideResult", "SlideTask", "find_slides", "tile_slide", "tile_slides"]
