"""The local backend: every task is a process, or a group of them, on this machine."""
