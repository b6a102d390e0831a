"""The synthetic multi-site study with planted truth."""
