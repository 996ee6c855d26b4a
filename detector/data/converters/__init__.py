"""From one annotation format to another, on disk."""
