"""Files for test servers: write and check."""
