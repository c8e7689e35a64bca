"""OpenAI's own client gets vectors from the server as it is."""

import base64

import numpy as np
import pytest

pytest.importorskip("prometheus_client")  # of the extra `serve`
openai = pytest.importorskip("openai")

from .conftest import Make, image_file  # noqa: E402
from .running import running  # noqa: E402


def test_client__gets_vectors_and_errors(make_service: Make) -> None:
    service = make_service()
    url = f"data:image/png;base64,{base64.b64encode(image_file()).decode()}"
    with running(service, key="k") as address:
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="k", max_retries=0)
        answer = client.embeddings.create(model="tiny", input=[url, url])
        with pytest.raises(openai.BadRequestError, match="not downloaded"):
            client.embeddings.create(model="tiny", input=["https://example.org/a.png"])
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="other").embeddings.create(model="tiny", input=url)
    assert len(answer.data) == 2
    np.testing.assert_allclose(np.linalg.norm(answer.data[1].embedding), 1, atol=1e-6)
