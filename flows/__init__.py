"""What happens, in which order: flows, the watcher and the command line."""
