"""Devices and the code that runs on them.

Importing this package is cheap: compilers are loaded when a device's compiler is constructed.
"""

from gpudisagg.device.code import GlobalVariable, KernelCode, LoadedModule
from gpudisagg.device.description import DeviceDescription
from gpudisagg.device.errors import CompileError

__all__ = ["CompileError", "DeviceDescription", "GlobalVariable", "KernelCode", "LoadedModule"]
