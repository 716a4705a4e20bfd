"""The inside of `rewards.code`: programs in completions, tests in rows, and jobs for the sandbox."""
