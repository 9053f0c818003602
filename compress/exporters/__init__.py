"""A model -> ONNX, checked against its source, and back to the libraries it came from."""
