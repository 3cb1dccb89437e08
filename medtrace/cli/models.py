"""Commands that share trained models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medtrace.cli import options
from medtrace.cli.app import command
from medtrace.cli.output import give, note, tell


@command("export-model")
def export_model(
    run: options.Run,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file.")],
    format_: Annotated[str, typer.Option("--format", help="onnx, torchscript or pt2 (torch.export).")] = "onnx",
    size: Annotated[
        str | None,
        typer.Option(metavar="HxW[xD]", help="The only input size it accepts, such as 256x256.  [default: any size]"),
    ] = None,
    checkpoint: options.Checkpoint = None,
) -> None:
    """Write a run's translation, image and field, as one file that runs without medtrace."""
    from medtrace.workflows.export_model import export_model as call
    from medtrace.workflows.runs import using_checkpoint

    with using_checkpoint(checkpoint):
        model = call(run, out, format=format_, size=_sizes(size))
    give({"out": out, "format": format_, "size": model.size, "difference": model.difference})
    tell(str(model))


def _sizes(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(number) for number in text.split("x"))
    except ValueError:
        raise ValueError(f"size: expected HxW or HxWxD, such as 256x256, received {text!r}") from None


@command("card", new_folder=True)
def card(
    run: options.Run,
    out: options.NewFolder,
    license_: Annotated[
        str,
        typer.Option(
            "--license", help="License of the weights, by its Hugging Face name: apache-2.0, cc-by-4.0, other, ..."
        ),
    ],
    title: Annotated[str | None, typer.Option(help="Title of the card.  [default: the method's]")] = None,
    limit: Annotated[
        list[str] | None, typer.Option(help="An additional sentence on how far to trust it; repeatable.")
    ] = None,
    checkpoint: options.Checkpoint = None,
) -> None:
    """Write a run as a folder to share: weights, record and a model card, in Hugging Face's layout."""
    from medtrace.workflows.card import card as call
    from medtrace.workflows.runs import using_checkpoint

    with using_checkpoint(checkpoint):
        model = call(run, out, license=license_, title=title, limits=tuple(limit or ()))
    give({"model": out, "license": license_, "scores": len(model.scores)})
    tell(f"model written to {out}, with {len(model.scores)} scores in its card")
    if not model.scores:
        note("medtrace: note: the card has no scores; `medtrace evaluate` stores them in the run")
