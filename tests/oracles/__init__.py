"""Slow, obvious versions of what the rooms compute: plain loops in float64."""
