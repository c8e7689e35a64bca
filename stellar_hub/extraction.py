"""The earlier place of `stellar_hub.features` and `stellar_hub.store`: importing it names them."""

import runpy
import sys

if __name__ != "__main__":
    raise ImportError(
        "stellar_hub.extraction was split: import FeatureStore and extract_to_store from stellar_hub.store, "
        "extract_features and ImageRecord from stellar_hub.features"
    )
sys.argv[1:1] = ["extract"]
runpy.run_module("stellar_hub", run_name="__main__", alter_sys=True)
