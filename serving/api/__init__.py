"""What clients send and read: bodies, made the engine's words, and its pieces as answers."""
