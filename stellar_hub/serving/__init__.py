"""The server `stellar-hub serve`: images to tokens and vectors, and tokens to images, over HTTP.

`Service` does the work without HTTP: it reads images in threads and batches the calls of the model. `application` gives
it endpoints, and `serve` serves them with uvicorn.
"""

from stellar_hub.serving.endpoints import application
from stellar_hub.serving.server import check_access, key_of_environment, serve
from stellar_hub.serving.service import Encoded, Service
from stellar_hub.serving.settings import ServingSettings

__all__ = [
    "Encoded",
    "Service",
    "ServingSettings",
    "application",
    "check_access",
    "key_of_environment",
    "serve",
]
