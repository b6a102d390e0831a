"""Tests of figures, tables and report."""
