"""Out of a store: LanceDB, Qdrant, parquet and .npy. The methods `to_*` of `FeatureStore` call these files."""
