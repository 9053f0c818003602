"""`compress doctor`: what this machine offers, what works on it, and why a file is as fast as it is.

Nothing is imported here: `probe.py` runs in processes of its own, each of which imports one package alone.
"""
