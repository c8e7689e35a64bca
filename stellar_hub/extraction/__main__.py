"""`accelerate launch -m stellar_hub.extraction ...`: `stellar-hub extract` in each process."""

import typer

from stellar_hub.cli.extract import extract

app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)
app.command()(extract)

if __name__ == "__main__":
    app(prog_name="python -m stellar_hub.extraction")
