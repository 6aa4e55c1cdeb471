"""What happens, in which order: flows, the watcher and the command line."""

import sys

# While `python -m flows` looks for this module, argv[0] is "-m", and the current folder comes first
# on the path: a tasks.py or yaml.py of somebody else would be taken for ours, and run.
if sys.argv[:1] == ["-m"] and not sys.flags.safe_path and __path__ != [f"{sys.path[0]}/flows"]:
    del sys.path[0]
