"""Encoders to embeddings, one row of numbers a scan."""
