"""Where a file came from: one stamp of code, config, data, weights, seeds, versions and runs in each.

Here belong the stamp, what carries it in each kind of file, and its way back to commands. Apart from
``models``, ``reading`` and ``reproducing`` standard library only: everything that writes files may import
it.
"""
