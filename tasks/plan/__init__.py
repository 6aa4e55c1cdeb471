"""What a run will do and need, known before anything is spent."""
