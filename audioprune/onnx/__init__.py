"""Export of classifiers to ONNX files."""
