"""Training: the model with its objective, recipes, and runs that can be stopped and resumed. Only `cli` imports it."""

from stellar_hub.training.model import StellarForPreTraining, StellarPreTrainingOutput

__all__ = ["StellarForPreTraining", "StellarPreTrainingOutput"]
