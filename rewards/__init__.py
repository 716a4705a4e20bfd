"""Rewards: text in, score out. Standard library only at import time."""
