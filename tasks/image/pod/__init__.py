"""The image programs: push an adapter, check that one could, pull an image's files."""
