"""From backbone maps to maps of equal width."""
