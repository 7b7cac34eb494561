"""`wsitool export-encoder`: a trained encoder for another library."""

from __future__ import annotations

from pathlib import Path

import click

from wsitool.cli.command import Command
from wsitool.cli.options import image_size_option

__all__ = ["command"]


@click.command(
    "export-encoder",
    cls=Command,
    help="Write an encoder as other libraries load it.\n\nENCODER is a run folder or an encoder file.",
    examples="""
    wsitool export-encoder encoder-breast --to torchvision --out encoder.pth
    wsitool export-encoder encoder-breast --to onnx --out encoder.onnx
    """,
)
@click.argument("encoder", type=click.Path(exists=True, path_type=Path))
@click.option("--to", required=True, help="torchvision, timm or onnx.")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="File to write: .pth, .pt, .bin or .safetensors; .onnx for onnx.",
)
@image_size_option("Pixels of ONNX input.  [default: as in training]")
def command(encoder: Path, to: str, out: Path, image_size: int | None) -> None:
    from wsitool.backbones.export import export_encoder

    written = export_encoder(encoder, out, to=to, image_size=image_size)
    click.echo(
        f"{written}: {written.stat().st_size / 1e6:.1f} MB, loads in {to} and gives the same features."
    )
