"""The wire for Python, whole: what csrc/transport/wire.h declares, under one name.

constants  VERSION, MAX_*, OP_*, STATUS_*, FEATURE_*, LAUNCH_*, PARAM_*, ACCESS_*
frames     Hello, Welcome, RefusedFrame; encode_*, decode_*
messages   one class per message, Message, decode(), encode()
layout     LAUNCH_HEAD and HEAD, for those who pack in one call
"""

from __future__ import annotations

from transport.constants import *  # noqa: F403
from transport.frames import *  # noqa: F403
from transport.layout import HEAD as HEAD
from transport.layout import LAUNCH_HEAD as LAUNCH_HEAD
from transport.layout import text_bytes as text_bytes
from transport.messages import *  # noqa: F403
