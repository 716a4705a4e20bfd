"""One wrong sign or inequality in each formula, and the test that must notice."""
