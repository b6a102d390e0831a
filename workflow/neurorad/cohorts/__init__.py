"""Who is who: release readers, labels, identity and leakage."""
