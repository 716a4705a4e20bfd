"""The inside of `rewards.sandbox`: levels, keepers, checkers, and what runs where no test can be seen."""
