"""A wall clock that a test can step while a process runs: `SUMIKA_TEST_CLOCK` names a file with the seconds to add.

Python imports this module by itself where its folder is on PYTHONPATH, before anything of ours asks what time it is. Monotonic
clocks go on as they are, as they do when a real clock is stepped.
"""

import datetime
import os
import time

_real_time, _Real = time.time, datetime.datetime
_file = os.environ.get("SUMIKA_TEST_CLOCK", "")


def _offset():
    try:
        with open(_file) as file:
            return float(file.read() or 0)
    except OSError:
        return 0.0


class _Kind(type(_Real)):
    def __instancecheck__(cls, instance):
        return isinstance(instance, _Real)


class _Stepped(_Real, metaclass=_Kind):
    @classmethod
    def now(cls, tz=None):
        return _Real.fromtimestamp(_real_time() + _offset(), tz)

    @classmethod
    def utcnow(cls):
        return _Real.utcfromtimestamp(_real_time() + _offset())


if _file:
    time.time = lambda: _real_time() + _offset()
    datetime.datetime = _Stepped
