"""Labelling of many sounds: files, Parquet tables, and on a cluster."""
