"""The GPU host's side: the daemon that admits sessions and the warm worker processes that run them.

Nothing is imported here: a worker must not pay for the daemon, nor the daemon for a compiler.
"""
