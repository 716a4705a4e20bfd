"""`unmask reward test`: what any reward is tried with, and what that means."""
