"""Network parts by role.

Constructors take built parts, numbers and specs, never config dicts; attribute names are MMDetection's.
"""
