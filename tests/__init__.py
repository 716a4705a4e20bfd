"""Tests; `tests.oracles` holds the slow, obvious versions."""
