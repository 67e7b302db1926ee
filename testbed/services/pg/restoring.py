"""What a session has beside its transaction: how it is found out, and made again on another backend.

The database is asked, because it knows: what was set by functions, and undone by a rollback. It is asked when the
text of a statement, or a changed parameter, gives reason to (`pg.sql`).
"""

from __future__ import annotations

from testbed.services.pg import protocol
from testbed.services.pg.backend import Backend
from testbed.services.pg.effects import Ask, Sleep, Steps
from testbed.services.pg.state import State

IN_PROGRESS_POLL = 0.002
"""Seconds between looks at a transaction whose backend has been told to end."""
BOUND = {
    "open cursors": "SELECT FROM pg_catalog.pg_cursors WHERE is_holdable",
    "LISTEN": "SELECT pg_catalog.pg_listening_channels()",
    "temporary tables": "SELECT FROM pg_catalog.pg_class WHERE relnamespace = pg_catalog.pg_my_temp_schema()",
    "advisory locks": "SELECT FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND granted"
    " AND pid = pg_catalog.pg_backend_pid()",
}
"""What lives and dies with a backend: none of it can be made again. By name, a query that has rows if there is one."""
_SET = (
    "SELECT name, setting FROM pg_catalog.pg_settings WHERE source = 'session' AND name NOT LIKE 'transaction\\_%'"
    " UNION ALL SELECT 'role', pg_catalog.current_setting('role')"
    " UNION ALL SELECT 'session_authorization', pg_catalog.current_setting('session_authorization')"
)
_PREPARED = "SELECT name, statement, from_sql FROM pg_catalog.pg_prepared_statements WHERE name NOT LIKE '\\_mtcp\\_%'"


def literal(value: str) -> str:
    """A string in SQL, whatever standard_conforming_strings says."""
    escaped = value.replace("\\", "\\\\").replace("'", "''")
    return f"E'{escaped}'"


def identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def look(backend: Backend, state: State) -> Steps[None]:
    """Bring `state` up to date; Failed. Not in a transaction that has failed."""
    custom = "".join(
        f" UNION ALL SELECT {literal(name)}, pg_catalog.current_setting({literal(name)}, true)" for name in state.custom
    )
    found = {str(name): value for name, value in (yield from backend.query(_SET + custom))}
    settings = {name: value for name, value in found.items() if value is not None}
    if settings.get("role") == "none":
        del settings["role"]
    if settings.get("session_authorization") == protocol.startup_parameters(state.startup).get("user"):
        del settings["session_authorization"]
    state.settings = settings
    prepared = {str(name): (str(text), by_sql) for name, text, by_sql in (yield from backend.query(_PREPARED))}
    state.prepared_by_sql = {name: text for name, (text, by_sql) in prepared.items() if by_sql == "t"}
    for name in [name for name in state.prepared if name and name not in prepared]:
        del state.prepared[name]
    bound = " UNION ALL ".join(f"SELECT {literal(name)} WHERE EXISTS ({query})" for name, query in BOUND.items())
    state.bound = [str(name) for (name,) in (yield from backend.query(bound))]


def restore(backend: Backend, state: State) -> Steps[None]:
    """Make it again; Failed. A statement that cannot be prepared any more is missed when the client uses it."""
    last = ("session_authorization", "role")
    names = sorted(state.settings, key=lambda name: (name in last, name == "role", name != "client_encoding"))
    for name in names:
        value = state.settings[name]
        yield from backend.query(f"SELECT pg_catalog.set_config({literal(name)}, {literal(value)}, false)")
    for text in state.prepared_by_sql.values():
        yield from backend.query(text)
    # The unnamed one last: others would replace it.
    prepared = [state.prepared[name] for name in sorted(state.prepared, reverse=True)]
    if prepared:
        yield Ask(b"".join(raw + protocol.SYNC for raw in prepared))
    for _ in prepared:
        yield from backend.section()


def outcome(backend: Backend, xid: str) -> Steps[bool]:
    """Whether the transaction was committed. If it is still open its backend is ended: nobody is there to commit it."""
    end = "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity"
    end += f" WHERE backend_xid = '{int(xid) & 0xFFFFFFFF}'::xid"
    while True:
        [[status]] = yield from backend.query(f"SELECT pg_catalog.pg_xact_status('{xid}'::xid8)")
        if status != "in progress":
            return status == "committed"
        yield from backend.query(end)
        yield Sleep(IN_PROGRESS_POLL)
