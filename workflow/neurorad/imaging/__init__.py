"""Raw scan to a volume one can trust."""
