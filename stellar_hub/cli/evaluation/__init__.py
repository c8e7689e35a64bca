"""`stellar-hub eval`: one file per protocol."""

import typer

from stellar_hub.cli.evaluation.all_protocols import all_protocols
from stellar_hub.cli.evaluation.diagnostics import diagnostics
from stellar_hub.cli.evaluation.knn import knn
from stellar_hub.cli.evaluation.linear import linear
from stellar_hub.cli.evaluation.reconstruction import reconstruction
from stellar_hub.cli.evaluation.segmentation import segmentation

app = typer.Typer(
    name="eval",
    help="Measure models, each protocol the same for all of them; everything about it stands in the JSON.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def root() -> None:
    """Measure models, each protocol the same for all of them; everything about it stands in the JSON."""


for command in (knn, linear, segmentation, reconstruction, diagnostics):
    app.command()(command)
app.command("all")(all_protocols)
