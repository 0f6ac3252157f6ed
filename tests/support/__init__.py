"""What several tests share: clients, clusters, runs and projects to test with."""
