"""The Hugging Face Hub: downloading published files, pushing models, and sections of model cards.

Code that talks to the Hub belongs here. The names of published models are data in `stellar_hub.registry`.
"""

from stellar_hub.hub.download import fetch
from stellar_hub.modeling.card_sections import read_section, write_section

# `push` is not listed: it is the method `push_to_hub` of a model, and the name of a file here.
__all__ = ["fetch", "read_section", "write_section"]
