"""A store of features on the disk: shards, one index, a manifest.

    store/
      manifest.json          what made it, and how many rows it has
      index.parquet          one line for each row
      shards/000000.safetensors, 000001.safetensors, ...

A shard holds the features of a fixed range of rows, and these rows of the index; it is one file, so that it is there as
a whole or not at all. Nothing in a store depends on when, by how many processes or in how many goes it was made.
"""
