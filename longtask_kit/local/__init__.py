"""The embedded stack: real Valkey, Upstash's Redis REST, a QStash-compatible queue, a demo model.

The stand-ins know only the wire; none of them imports a stage of the kit. `services` alone
puts the kit's own webhook app beside them.
"""
