"""The endpoints that the app has, one file each kind."""
