"""The model zoo: every model that MMDetection 2.x published, and which of them this library runs."""
