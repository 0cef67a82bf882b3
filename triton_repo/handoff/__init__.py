"""Visual rows from an encode server to a language server.

The language side owns an `EncodeConnection` (`receiver`), the encode side a `HandoffSender` (`sender`). What they say
to each other is in `messages`, when they may say it in `receiver_transfer` and `sender_transfer`, which do no I/O, and
how rows move in `transports`. docs/handoff.md describes the protocol.
"""
