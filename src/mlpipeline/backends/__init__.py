"""Who carries the pipeline out: processes on this machine, or pods in a cluster.

The two know nothing of each other; both start the same steps by their command lines.
"""
