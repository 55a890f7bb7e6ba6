"""The laboratory: data, training runs, published experiments, reports, and the command line.

The laboratory uses the library; the library never imports the laboratory.
"""
