"""Probes, survival, invariance: numbers with their uncertainty."""
