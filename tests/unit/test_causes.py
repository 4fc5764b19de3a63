"""What is said of a failed cell begins with the cause; the texts are those of Spark and Py4J, shortened in their stacks."""

import pytest

from lib import causes

QUERY = (
    "[STREAM_FAILED] Query [id = 47ffbe82-c2cf-4b60-ae9d-0f5fa9a9421d, runId = 7f6e05f3-dfd5-4e84-9650-cfb436834436]"
    " terminated with exception: "
)
WORKER = (
    "[PYTHON_EXCEPTION] [session: 0811d723-013d-46bc-a145-ffe0149a9252] [userId: ] Found error inside foreachBatch Python"
    " process: Traceback (most recent call last):\n"
    '  File ".venv/lib/python3.11/site-packages/pyspark/sql/connect/streaming/worker/foreach_batch_worker.py", line 85, in'
    " main\n    process(df_ref_id, int(batch_id))\n"
)
STACK = (
    "\n\nJVM stacktrace:\norg.apache.spark.sql.streaming.StreamingQueryException\n"
    "\tat org.apache.spark.sql.execution.streaming.StreamExecution.runStream(StreamExecution.scala:401)\n"
    "Caused by: org.apache.spark.api.python.PythonException: "
    + WORKER
    + "lib.ledger.offsets.DataLoss: something else\n"
)
STREAM = (
    QUERY + WORKER + '  File "lib/ledger/offsets.py", line 80, in check\n    raise DataLoss(\n'
    "lib.ledger.offsets.DataLoss: transactions-topic: offsets 5 to 9 are gone from Kafka and were never stored\n"
    " SQLSTATE: 38000 SQLSTATE: XXKST\n=== Streaming Query ===\nIdentifier: [id = 47ffbe82, runId = 7f6e05f3]\n" + STACK
)
STREAM_OF_JAVA = (
    QUERY + WORKER + "    ).save()\n      ^^^^^^\n"
    "pyspark.errors.exceptions.connect.UnknownException: (org.postgresql.util.PSQLException) Connection to localhost:1"
    " refused.\n\nJVM stacktrace:\norg.postgresql.util.PSQLException\n\tat org.postgresql.Driver.connect(Driver.java:1)\n"
)
UDF = (
    "\n  An exception was thrown from the Python worker. Please see the stack trace below.\n"
    "[PYTHON_EXCEPTION] An exception was thrown from the Python worker: Traceback (most recent call last):\n"
    '  File "lib/x.py", line 10, in udf\n    raise ValueError("bad value\\nsecond line")\n'
    "ValueError: bad value\nsecond line\n SQLSTATE: 38000\n\nJVM stacktrace:\norg.apache.spark.api.python.PythonException\n"
)
NO_TABLE = (
    "[TABLE_OR_VIEW_NOT_FOUND] The table or view `b` cannot be found. Verify the spelling and correctness of the schema and"
    " catalog.\nSearch path: [`system`.`builtin`]. SQLSTATE: 42P01; line 1 pos 14;\n\n\nJVM stacktrace:\norg.apache\n"
)
PY4J = (
    "An error occurred while calling o47.load.\n: org.apache.spark.SparkException: Job aborted due to stage failure: Task 0"
    " in stage 1.0 failed 1 times, most recent failure: Lost task 0.0 in stage 1.0 (TID 1) (localhost executor driver):"
    ' java.lang.NumberFormatException: For input string: "a"\n\tat java.lang.Integer.parseInt(Integer.java:652)\n'
)
TASK = (
    "(org.apache.spark.SparkException) Job aborted due to stage failure: Task 0 in stage 7.0 failed 1 times, most recent"
    " failure: Lost task 0.0 in stage 7.0 (TID 9) (10.0.0.1 executor driver): org.postgresql.util.PSQLException: ERROR:"
    " canceling statement due to user request\n\tat org.postgresql.core"
)


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        (
            "StreamingQueryException",
            STREAM,
            "DataLoss: transactions-topic: offsets 5 to 9 are gone from Kafka and were never stored",
        ),
        ("StreamingQueryException", STREAM_OF_JAVA, "PSQLException: Connection to localhost:1 refused."),
        ("StreamingQueryException", f"{QUERY}Partition t-0's offset was changed from 9 to 5 SQLSTATE: XXKST{STACK}",
         "Partition t-0's offset was changed from 9 to 5"),
        ("PythonException", UDF, "ValueError: bad value"),
        ("AnalysisException", NO_TABLE, "AnalysisException: [TABLE_OR_VIEW_NOT_FOUND] The table or view `b` cannot be found."
         " Verify the spelling and correctness of the schema and catalog."),
        ("ParseException", "\n[PARSE_SYNTAX_ERROR] Syntax error at or near 'selec'. SQLSTATE: 42601 (line 1, pos 0)\n\n",
         "ParseException: [PARSE_SYNTAX_ERROR] Syntax error at or near 'selec'. SQLSTATE: 42601 (line 1, pos 0)"),
        ("SparkRuntimeException", "[USER_RAISED_EXCEPTION] planted: here SQLSTATE: P0001\n\nJVM stacktrace:\norg",
         "SparkRuntimeException: [USER_RAISED_EXCEPTION] planted: here"),
        ("UnknownException", "(org.postgresql.util.PSQLException) ERROR: division by zero\n\nJVM stacktrace:\norg",
         "PSQLException: ERROR: division by zero"),
        ("Py4JJavaError", PY4J, 'NumberFormatException: For input string: "a"'),
        ("SparkException", TASK, "PSQLException: ERROR: canceling statement due to user request"),
        ("UnknownException", "java.lang.OutOfMemoryError", "OutOfMemoryError"),
        ("AssertionError", "first\nsecond", "AssertionError: first"),
        ("KeyboardInterrupt", "", "KeyboardInterrupt"),
        ("ValueError", "run lib.gaps: not found", "ValueError: run lib.gaps: not found"),
        ("RuntimeError", f"it said\n{causes.TRACEBACK}  File\nValueError: x", "RuntimeError: it said"),
        ("SystemExit", "0", f"{causes.ENDED_EARLY}; it gave 0"),
        ("SystemExit", "", causes.ENDED_EARLY),
        ("StreamingQueryException", QUERY, "StreamingQueryException"),
        ("PythonException", f"[PYTHON_EXCEPTION] {causes.TRACEBACK}", "PythonException: [PYTHON_EXCEPTION] Traceback (most"
         " recent call last):"),
    ],
)  # fmt: skip
def test_a_failed_cell_is_told_by_its_cause(name: str, text: str, line: str) -> None:
    assert causes.brief(name, text) == line


def test_what_is_told_is_one_line_of_a_few_hundred_characters() -> None:
    line = causes.brief("ValueError", "a" * 10_000 + "\nb")
    assert (len(line), line.isprintable()) == (causes.LONGEST, True)
