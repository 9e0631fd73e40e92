"""How values lie in bytes: one struct.Struct for each struct of wire.h, its size asserted against the
compiled one.

Filling a cdata struct field by field costs about four times as much as one pack.
"""

from __future__ import annotations

import struct

from transport._transport import ffi
from transport.constants import MAX_TEXT


def _define(code: str, ctype: str) -> struct.Struct:
    defined = struct.Struct("<" + code)
    if defined.size != ffi.sizeof(ctype):
        raise ImportError(f"transport.wire and wire.h disagree on {ctype}: rebuild the extension")
    return defined


HEAD = _define("IHBBII", "gpud_message_head")  # tag, size, op, flags, stream, sequence
LAUNCH_HEAD = _define(
    "IHH3I3HHI", "gpud_msg_launch"
)  # module, kernel, params_size, grid, block, reserved, shared
HELLO = _define("HHIQQQ", "gpud_hello")
WELCOME = _define("HHIIIQQQQQQ3I3IIIII", "gpud_welcome")
REFUSED = _define("II", "gpud_refused")
ASK = _define("Q", "gpud_ask")
WAYS = _define("16s", "gpud_ways")
REGION_ADD = _define("IIQQ", "gpud_msg_region_add")
MAP = _define("QQ", "gpud_msg_map")
COPY_HOST = _define("QQQII", "gpud_msg_copy_host")
COPY = _define("QQQ", "gpud_msg_copy")
FILL = _define("QQQII", "gpud_msg_fill")
WRITE = _define("Q", "gpud_msg_write")
MODULE_LOAD = _define("IIQQ", "gpud_msg_module_load")
ID = _define("II", "gpud_msg_module_ref")  # also region_drop and event_ref: a number, then zero
PARAM = _define("HHHH", "gpud_param")
KERNEL_INFO = _define("IHHIIII", "gpud_msg_kernel_info")
GLOBAL_INFO = _define("IIQQ", "gpud_msg_global_info")
MODULE_STATUS = _define("IIII", "gpud_msg_module_status")
EVENT_TIME = _define("IIQ", "gpud_msg_event_time")
FAULT = _define("QIIQII3II", "gpud_msg_fault")
BYE = _define("II", "gpud_msg_bye")
DIRECT = _define("II", "gpud_msg_direct")
COMPLETED = _define("QII", "gpud_msg_completed")
BYTES = _define("Q", "gpud_msg_bytes")
REGION_KEY = _define("QII", "gpud_msg_region_key")
CREDIT = _define("II", "gpud_msg_credit")

Triple = tuple[int, int, int]


def pack(layout: struct.Struct, *values: int) -> bytes:
    """`layout.pack`, with ValueError where a value is out of its field's range."""
    try:
        return layout.pack(*values)
    except struct.error as error:
        raise ValueError(f"a field is out of its range: {error}") from None


def text_bytes(text: str, limit: int = MAX_TEXT) -> bytes:
    """`text` as the wire carries it: UTF-8 without NUL, cut to `limit` bytes at a character's border."""
    data = text.replace("\0", "\ufffd").encode("utf-8", errors="replace")
    return data if len(data) <= limit else data[:limit].decode("utf-8", errors="ignore").encode("utf-8")


def text_of(data: bytes) -> str:
    """Text from the peer: what is no UTF-8 is replaced, never an error."""
    return data.decode("utf-8", errors="replace")
