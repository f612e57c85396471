"""Classifiers as ONNX files."""
