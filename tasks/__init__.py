"""The pipeline's steps: thin calls into the detector, each cached by a receipt. May import detector."""
