"""Encode and language on separate servers, on top of the hand-off of visual rows (docs/split-deployment.md).

Language side: `media` lays out what preprocess passes on, `remote_vision` answers requests with rows from `row_source`,
which keeps a `row_cache` and asks the encode servers of a `pool`. Encode side: `encoding` makes rows of files.
"""
