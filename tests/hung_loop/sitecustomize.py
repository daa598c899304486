"""A fault for a test to inject: SIGUSR2 makes a process of ours stand still, as a handler that never returns would.

Python imports this module by itself where its folder is on PYTHONPATH.
"""

import signal
import time

signal.signal(signal.SIGUSR2, lambda *_: time.sleep(3600))
