"""What each container runs: a step reads what the step before published and publishes its own."""
