"""Archives of images far larger than memory: WebDataset tars and parquet files, read one sample at a time."""
