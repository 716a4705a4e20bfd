"""A whole program that ends well without any output."""

KIND = "stdio"
raise SystemExit(0)
