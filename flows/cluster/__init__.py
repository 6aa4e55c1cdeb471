"""A cluster's Workspaces from outside: applied, watched, ended and begun again.

What then happens to one is its watcher's; a command line asks for it here, and so does a form.
"""
