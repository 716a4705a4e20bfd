"""A whole program that prints without end."""

KIND = "stdio"
for _ in range(100):
    print("x" * (1 << 20))
