"""`wsitool export-encoder`: a trained encoder for another library."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from wsitool.cli.command import Command
from wsitool.cli.console import console_reporter
from wsitool.cli.options import image_size_option
from wsitool.errors import UsageError

__all__ = ["command"]


@click.command(
    "export-encoder",
    cls=Command,
    help="Write an encoder as other libraries load it.\n\nENCODER is a run folder or an encoder file.",
    examples="""
    wsitool export-encoder encoder-breast --to torchvision --out encoder.pth
    wsitool export-encoder encoder-breast --to onnx --out encoder.onnx
    wsitool export-encoder run --classifier --to onnx --out classifier.onnx
    wsitool export-encoder encoder-breast --to hf --out my-encoder
    wsitool export-encoder encoder-breast --to hf --out my-encoder --push my-lab/my-encoder
    wsitool export-encoder encoder-breast --snapshot best --to timm --out best.pth
    """,
)
@click.argument("encoder", type=click.Path(exists=True, path_type=Path))
@click.option("--to", required=True, help="torchvision, timm, onnx, or hf: a folder for a hub.")
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    help="File to write: .pth, .pt, .bin or .safetensors; .onnx for onnx; a folder for hf.",
)
@click.option("--snapshot", help="Of a run with snapshots: an epoch, or best.")
@click.option("--push", metavar="ORG/NAME", help="Upload the folder of hf to this repository of the hub.")
@click.option("--classifier", is_flag=True, help="Of a run of classify all of it, probabilities too (onnx).")
@click.option("--overwrite", is_flag=True, help="Replace what is at OUT.")
@image_size_option("Pixels of ONNX input where the network takes one size.  [default: as in training]")
def command(
    encoder: Path,
    to: str,
    out: Path,
    snapshot: str | None,
    push: str | None,
    classifier: bool,
    overwrite: bool,
    image_size: int | None,
) -> None:
    if classifier:
        others = {"--snapshot": snapshot, "--push": push}
        _export_classifier(encoder, to, out, image_size, overwrite, others)
        return
    from wsitool.backbones.export import export_encoder

    there = not overwrite and (out.is_file() or (out.is_dir() and any(out.iterdir())))
    written = export_encoder(
        encoder,
        out,
        to=to,
        image_size=image_size,
        snapshot=snapshot,
        push=push,
        overwrite=overwrite,
        reporter=console_reporter(),
    )
    if there:
        click.echo(f"{written} is this encoder already, and is left as it is.")
    elif written.is_dir():
        library = "transformers" if (written / "preprocessor_config.json").exists() else "timm (local-dir:)"
        click.echo(f"{written}: a folder that {library} loads, with a card to complete in README.md.")
    else:
        size = written.stat().st_size / 1e6
        click.echo(f"{written}: {size:.1f} MB, loads in {to} and gives the same features.")
    if push is not None:
        click.echo(f"It is uploaded to {push}, which is private if it was not there before.")


def _export_classifier(
    run: Path, to: str, out: Path, image_size: int | None, overwrite: bool, others: Mapping[str, str | None]
) -> None:
    given = [name for name, value in others.items() if value is not None]
    if to != "onnx" or given:
        wrong = given[0] if given else f"--to {to}"
        raise UsageError(f"--classifier writes a classifier as --to onnx, and does not go with {wrong}.")
    from wsitool.classify.export import export_classifier

    fixed = export_classifier(run, out, image_size=image_size, overwrite=overwrite)
    sizes = f"images of one size ({fixed})" if fixed else "images of any size"
    click.echo(
        f"{out}: {out.stat().st_size / 1e6:.1f} MB, takes {sizes}, gives probabilities, logits and features, "
        "and onnxruntime computes the same."
    )
