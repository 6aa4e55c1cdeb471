"""Python's cycle collector in processes that live long: less often, and not over what stays."""

import gc
import itertools
import threading
import time

_NEW_OBJECTS = 20_000
_YOUNG_COLLECTIONS, _MIDDLE_COLLECTIONS = 20, 10
_LOOK_EVERY_S = 0.2


def settle_heap() -> None:
    """Leave what is loaded alone from now on, and look at new objects by the tens of thousands.

    By default they are looked at by 700: that was an eighth of the time of Prefect's server and a
    sixth of the watcher's while 200 runs began (counted by gc.callbacks), now it is a fiftieth of
    the first and a twelfth of the second, at the same memory.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_NEW_OBJECTS, _YOUNG_COLLECTIONS, _MIDDLE_COLLECTIONS)


def collect_aside() -> None:
    """Have cycles collected by a thread of its own, as often as before, until the process ends.

    Whoever collects a cursor of SQLite's waits for the mutex of its connection, which a statement
    of another thread holds while it waits for the database's lock: a minute, as Prefect has it.
    Where that was the thread of the event loop, which alone could give back the lock, Prefect's
    server stood still for that minute.
    """
    gc.disable()
    threading.Thread(target=_collect_for_ever, name="cycles", daemon=True).start()


def _collect_for_ever() -> None:
    new, young, middle = gc.get_threshold()
    for number in itertools.count(1):
        while gc.get_count()[0] < new:
            time.sleep(_LOOK_EVERY_S)
        gc.collect(2 if number % (young * middle) == 0 else number % young == 0)
