"""Rules of public code, quirks included, in our own words: for comparison only."""
