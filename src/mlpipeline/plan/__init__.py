"""What is to be done, and under which key: the steps as data, the configuration, the rules.

Nothing here starts a process, talks to a cluster or imports TensorFlow.
"""
