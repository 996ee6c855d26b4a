"""One thin module per command of `detector`: arguments in, one call, text out.

Not here: logic. May import everything below.
"""
