"""Labels of many sounds: of files, of Parquet tables, and on a cluster."""
