# The compiled module: untyped, and only engine.py touches it.
from typing import Any

ffi: Any
lib: Any
