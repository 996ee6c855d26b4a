"""From an image batch to feature maps of several strides."""
