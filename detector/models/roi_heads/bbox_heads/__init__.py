"""Class and box per region."""
