"""What comes from outside while the pipeline is in service: requests for runs, corrected labels."""
