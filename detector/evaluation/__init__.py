"""From detections to numbers and to files for test servers. Not here: running a model.

May import structures, ops and metric libraries.
"""
