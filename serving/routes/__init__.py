"""The endpoints of the app, a file for each kind."""
