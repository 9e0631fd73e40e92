"""How fast it is: measurements, each beside the floor of the machine it runs on. `python -m bench` lists
them.

These are not tests: nothing here fails because it was slow. Development only, never installed.
"""
