"""What statements' texts say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from testbed.services.pg import sql
from testbed.services.pg.sql import Kind

KINDS = {
    "SELECT 1": Kind.OTHER,
    "(SELECT 1) UNION SELECT 2": Kind.OTHER,
    "insert into t values ('; COMMIT')": Kind.OTHER,
    "-- BEGIN\n/* COMMIT /* nested */ ; */ update t set a = 1": Kind.OTHER,
    "SELECT $tag$; COMMIT; $other$ $tag$, E'it\\'s; COMMIT', \"; COMMIT\"": Kind.OTHER,
    "": Kind.SESSION,
    " ;; -- nothing": Kind.SESSION,
    "SET a = 1": Kind.SESSION,
    "show all; RESET ALL": Kind.SESSION,
    "DECLARE c CURSOR WITH HOLD FOR SELECT 1": Kind.SESSION,
    "PREPARE p AS SELECT 1": Kind.SESSION,
    "SET a = 1; INSERT INTO t VALUES (1)": Kind.OTHER,
    "begin isolation level serializable": Kind.BEGIN,
    "START TRANSACTION;": Kind.BEGIN,
    "commit": Kind.COMMIT,
    "END WORK;": Kind.COMMIT,
    "COMMIT AND NO CHAIN": Kind.COMMIT,
    "COMMIT AND CHAIN": Kind.UNSAFE,
    "ROLLBACK": Kind.ROLLBACK,
    "ABORT": Kind.ROLLBACK,
    "ROLLBACK TO SAVEPOINT a": Kind.SESSION,
    "ROLLBACK WORK TO a": Kind.SESSION,
    "PREPARE TRANSACTION 'a'": Kind.UNSAFE,
    "COMMIT PREPARED 'a'": Kind.UNSAFE,
    "ROLLBACK PREPARED 'a'": Kind.UNSAFE,
    "BEGIN; INSERT INTO t VALUES (1); COMMIT": Kind.UNSAFE,
    "INSERT INTO t VALUES (1); COMMIT": Kind.UNSAFE,
}


@pytest.mark.parametrize("text", KINDS)
def test_kinds(text: str) -> None:
    assert sql.read(text).kind is KINDS[text]


@pytest.mark.parametrize(
    "text",
    ["SET a TO 1", "select set_config('a', 'b', false)", "CREATE TEMP TABLE t()", "create temporary view v as select 1",
     "SELECT pg_try_advisory_lock(1)", "LISTEN x", "DISCARD ALL", "DO $$BEGIN END$$", "DEALLOCATE p", "SET my.own = 1"],
)  # fmt: skip
def test_touching(text: str) -> None:
    assert sql.read(text).touches


@pytest.mark.parametrize("text", ["SELECT 1", "UPDATE t SET a = 1", "INSERT INTO t VALUES (1)", "BEGIN", "COMMIT"])
def test_not_touching(text: str) -> None:
    assert not sql.read(text).touches


def test_settings_of_ones_own() -> None:
    assert sql.read("SET my.own = 1; SELECT set_config('His.Own', 'x', true)").settings == {"my.own", "his.own"}
    assert sql.read("SET search_path = a").settings == frozenset()


def test_copying() -> None:
    assert sql.read("SELECT 1; COPY t FROM STDIN").copies
    assert not sql.read("SELECT 'COPY'").copies


@given(st.text())
def test_any_text(text: str) -> None:
    sql.read(text)
