"""`stellar-hub eval`: the commands that evaluate models. What they compute is in `stellar_hub.evaluation`."""

import typer

from stellar_hub.cli.evaluation.all_protocols import all_protocols
from stellar_hub.cli.evaluation.classification import knn, linear
from stellar_hub.cli.evaluation.segmentation import segmentation
from stellar_hub.cli.evaluation.unlabelled import diagnostics, reconstruction

__all__ = ["app"]

HELP = "Evaluate models with one protocol. --output saves a JSON file with all settings."

app = typer.Typer(
    name="eval",
    help=HELP,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(help=HELP)
def root() -> None:
    """Holds the commands together."""


for command in (knn, linear, segmentation, reconstruction, diagnostics):
    app.command()(command)
app.command("all")(all_protocols)
