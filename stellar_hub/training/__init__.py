"""Training: the objective, and the loop around it. Nothing outside this folder imports it, the command line aside."""

from stellar_hub.training.modeling_pretraining import StellarForPreTraining
from stellar_hub.training.output import StellarPreTrainingOutput

__all__ = ["StellarForPreTraining", "StellarPreTrainingOutput"]
