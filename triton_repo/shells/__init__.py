"""Each file here becomes a model's `model.py`. They run in Triton's Python backend only."""
