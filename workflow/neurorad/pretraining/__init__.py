"""Four self-supervised methods, each with or without Group-DRO."""
