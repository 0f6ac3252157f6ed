"""What is in each JSON file of a workspace: a frozen type for each, with its schema version."""
