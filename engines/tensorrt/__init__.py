"""TensorRT engines of the vision encoder, for two flavours of the library that share one interface."""
