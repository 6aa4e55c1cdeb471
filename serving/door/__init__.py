"""Who may ask: keys with their budgets, web pages by their origin, connections by their number."""
