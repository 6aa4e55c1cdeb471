"""What each pod program is told, and what it answers: frozen dataclasses, one module a step."""
