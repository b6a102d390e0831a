"""What made each file, and from what."""
