"""Restore Ctrl-C: a background job ignores SIGINT, and so would the processes that tests start."""

import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
