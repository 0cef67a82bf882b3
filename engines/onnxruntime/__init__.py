"""ONNX Runtime engines: building them and running them."""
