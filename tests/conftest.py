"""What all tests need of the process that they run in."""

import signal

# A shell starts what it puts into the background with SIGINT ignored, and children inherit that.
# The tests that press Ctrl-C must find it as it is in a terminal.
signal.signal(signal.SIGINT, signal.default_int_handler)
