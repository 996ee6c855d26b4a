"""Features of a region."""
