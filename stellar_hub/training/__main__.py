"""`accelerate launch -m stellar_hub.training ...`: `stellar-hub train` in each process."""

import typer

from stellar_hub.cli.train import train

app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode=None)
app.command()(train)

if __name__ == "__main__":
    app(prog_name="python -m stellar_hub.training")
