"""Demonstrations: whole jobs on real input, run on a remote device and checked against what the host
computes.

Installed with the extra `demo` (scikit-learn, matplotlib, rich, click). Nothing else in `gpudisagg` imports
this package but the command line, when asked for it.
"""
