"""What lies on the disk: every path of the workspace and the content of every file in it."""
