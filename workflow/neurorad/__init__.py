"""NeuroRAD: self-supervised encoders of multi-site brain-tumour MRI, and the audit of what they learned."""

from pathlib import Path

__version__ = "0.1.0"

RESOURCES = Path(__file__).resolve().parents[2] / "resources"
"""Folder of small, versioned inputs (label dictionaries, endpoints, phantom recipe)."""
