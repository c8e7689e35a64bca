from tests.stellar_hub.data.sources.conftest import shards

__all__ = ["shards"]
