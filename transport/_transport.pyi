# The compiled module: untyped, and only the modules of this package touch it.
from typing import Any

ffi: Any
lib: Any
