"""`accelerate launch -m stellar_hub.evaluation knn ...`: `stellar-hub eval knn` in each process."""

from stellar_hub.cli.evaluation import app

if __name__ == "__main__":
    app(prog_name="python -m stellar_hub.evaluation")
