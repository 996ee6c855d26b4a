"""Looking through a whole data set for what spoils training, and a report of it.

Belongs here: reading annotations without stopping at the first mistake, checking them and every image file,
finding copies, the report. Not: mending what was found. May import datasets' reading, converters, structures
and visualize; ``images`` imports neither torch nor OpenCV's drawing, as worker processes start with it.
"""
