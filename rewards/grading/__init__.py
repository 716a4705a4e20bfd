"""`unmask grade`: stored generations under every rule that is known for their task."""
