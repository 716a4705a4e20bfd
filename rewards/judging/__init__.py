"""The inside of `rewards.judge`: prompts, verdicts, the endpoint and its cache."""
