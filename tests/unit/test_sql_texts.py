"""No SQL is pasted together from texts: a statement is a constant, its values are bound, its identifiers composed."""

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import nbformat
import pytest

from lib.settings import ROOT

_FROM_FILES = {("lib/warehouse/quality.py", "rule.query")}
"""What is a whole statement or condition of a file in `sql/`, and so may become `sql.SQL` though it isn't a literal."""

_NAME = r'(?!(?:an?|the|your|this|that|it)\b)["\w.{}%]+'
"""An identifier, a placeholder, but no word of an English sentence."""

_START = (
    r"select\s+(?:distinct\b|case\b|from\s|[*('%\d-]|\w\s*(?:,|from\b)|{NAME}\s*(?:[,()*/|<>=+-]|::|from\b|as\b|$))",
    r"insert\s+into\s+{NAME}",
    r"update\s+{NAME}(?:\s+(?:as\s+)?\w+)?\s+set\b",
    r"delete\s+from\s+{NAME}",
    r"with\s+(?:recursive\s+)?{NAME}\s*(?:\([^)]*\)\s*)?as\s+(?:not\s+)?(?:materialized\s*)?\(",
    r"(?:create|alter|drop)\s+(?:or\s+replace\s+|temp\w*\s+|unlogged\s+|unique\s+|materialized\s+)*"
    r"(?:table|view|index|database|schema|role|function|sequence|trigger|extension)\s+(?:if\s|concurrently\s|{NAME})",
    r"truncate\s+(?:table\s+)?{NAME}",
    r"copy\s.*\b(?:from\s+stdin|to\s+stdout)\b",
    r"grant\s+(?:[\w, ]+\son|{NAME}\s+to)\s+{NAME}",
    r"lock\s+table\s+{NAME}",
    r"set\s+(?:local|session)\s+\w",
)
"""How a statement begins."""

_ANYWHERE = (
    r"\bfrom\s+{NAME}(?:\s+(?:as\s+)?\w+)?\s+(?:(?:left|right|full|inner|cross)\s+join|join|group\s+by|order\s+by|limit)\b",
    r"\bwhere\s+(?:not\s+)?(?:exists\s*\(|{NAME}\s*(?:[<>=]|(?:not\s+)?(?:in\s*\(|between\b|like\b)"
    r"|is\s+(?:not\s+)?(?:null|true|false|distinct)\b))",
    r"\bjoin\s+{NAME}(?:\s+(?:as\s+)?\w+)?\s+(?:on\b|using\s*\()",
    r"\b(?:group|order|partition)\s+by\s+{NAME}",
    r"\bunion\s+(?:all|select)\b",
    r"\bcase\s+when\b.*\bthen\b",
    r"(?:\b(?:in|exists|any|all|from|as)|=)\s*\(\s*select\b",
    r"\bon\s+conflict\s+(?:\(|on\b|do\b)",
    r"\bis\s+(?:not\s+)?distinct\s+from\b",
    r"::(?:text|date|bigint|int|integer|numeric|float|jsonb|boolean|timestamptz|regclass)\b",
    r"\bat\s+time\s+zone\s+'",
    r"(?:[<>=]\s*|\b(?:any|all)\s*\()%\(\w+\)s",
    r"^\s*(?:(?:and|or)\s+)?[\w.\"]*\{\}\"?\s*[<>=]+\s*(?:any\s*\(\s*)?%s",
    r"(?:^|;)\s*for\s+update\b",
)
"""What no English sentence has in it."""

_SQL = re.compile(
    "|".join([rf"(?:^|;)\s*\(?(?:{'|'.join(_START)})", *_ANYWHERE]).replace("{NAME}", _NAME), re.IGNORECASE | re.DOTALL
)

_TAKES_SQL = {"execute", "executemany", "execute_values", "mogrify", "copy_expert", "SQL", "frame", "read_sql"} | {
    *("read_sql_query", "sql", "expr", "selectExpr")
}
"""Functions whose argument is SQL whatever it looks like: psycopg2's, ours, those of pandas and of Spark."""

Scope = dict[str, list[ast.expr | None]]
"""What the names of a function or module stand for; None is what comes from elsewhere, as a parameter does."""


class Source:
    """A module, or all the cells of a notebook."""

    def __init__(self, code: str, path: str = "") -> None:
        self.path = path
        self.lines = code.splitlines()
        self.scopes: dict[ast.AST, tuple[Scope, ...]] = {}
        self._read(ast.parse(code), ({},))

    def findings(self) -> list[tuple[int, str]]:
        """Each place where SQL is pasted: its line, and how, once."""
        return sorted({(node.lineno, kind) for node in self.scopes for kind in self._kinds(node)})

    def _read(self, node: ast.AST, scopes: tuple[Scope, ...]) -> None:
        """Note what the names stand for in the node and below."""
        self.scopes[node] = scopes
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            scopes = (*scopes, {})
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for name in [getattr(target, "id", None) for target in targets] + [getattr(node, "arg", None)]:
            if name and not isinstance(node, ast.AugAssign | ast.keyword):
                scopes[-1].setdefault(name, []).append(getattr(node, "value", None))
        for child in ast.iter_child_nodes(node):
            self._read(child, scopes)

    def _meanings(self, name: ast.Name) -> list[ast.expr | None]:
        return next((scope[name.id] for scope in reversed(self.scopes[name]) if name.id in scope), [None])

    def _kinds(self, node: ast.AST) -> Iterator[str]:
        if (kind := _pasted(node)) and _SQL.search(self._text(node)):
            yield kind
        elif isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add):
            if any(_SQL.search(self._text(part)) for part in (node.target, node.value)):
                yield "+="
        elif isinstance(node, ast.Call) and _called(node) in _TAKES_SQL:
            for argument in node.args:
                if (kind := _pasted(argument)) and (kind == "%" or self._text(argument)):
                    yield kind
            if _called(node) == "SQL" and not all(map(self._may_be_sql, node.args)):
                yield "SQL"

    def _text(self, node: ast.AST | None, depth: int = 3) -> str:
        """What is known of a text, with `{}` for what isn't; empty for what isn't one, `sql.SQL(…)` among it."""

        def texts(parts: Sequence[ast.AST | None], between: str = "") -> str:
            known = [self._text(part, depth) for part in parts]
            return between.join(text or "{}" for text in known) if any(known) else ""

        match node:
            case ast.Constant(value=str(text)):
                return text
            case ast.JoinedStr(values=parts):
                return texts(parts)
            case ast.FormattedValue(value=part) | ast.GeneratorExp(elt=part) | ast.ListComp(elt=part):
                return texts([part])
            case ast.BinOp(left=left, op=ast.Add() | ast.Mod(), right=right):
                return texts([left, right])
            case ast.List(elts=parts) | ast.Tuple(elts=parts):
                return texts(parts, " ")
            case ast.IfExp(body=body, orelse=orelse):
                return texts([body, orelse], ";")
            case ast.Call(func=ast.Attribute(value=between, attr="join"), args=[parts]):
                return texts([parts, between, None])
            case ast.Call(func=ast.Attribute(value=part)):
                return texts([part])
            case ast.Name() if depth:
                return ";".join(self._text(meaning, depth - 1) for meaning in self._meanings(node))
        return ""

    def _may_be_sql(self, node: ast.AST | None) -> bool:
        """Whether it is a literal, a choice between literals, a name that stands for nothing else, or from a file."""
        match node:
            case ast.IfExp(body=body, orelse=orelse):
                return self._may_be_sql(body) and self._may_be_sql(orelse)
            case ast.Name():
                return all(isinstance(meaning, ast.Constant) for meaning in self._meanings(node))
        return isinstance(node, ast.Constant) or (node is not None and (self.path, ast.unparse(node)) in _FROM_FILES)


def _pasted(node: ast.AST) -> str:
    """How an expression pastes a text together; empty when it doesn't."""
    match node:
        case ast.JoinedStr(values=parts) if any(isinstance(part, ast.FormattedValue) for part in parts):
            return "f"
        case ast.BinOp(op=ast.Add()):
            return "+"
        case ast.BinOp(op=ast.Mod()):
            return "%"
        case ast.Call(func=ast.Attribute(attr=("format" | "format_map" | "join" | "replace") as name)):
            return name
    return ""


def _called(node: ast.Call) -> str:
    return getattr(node.func, "attr", getattr(node.func, "id", ""))


def _sources() -> Iterator[Source]:
    """All that isn't exempt of the modules and notebooks."""
    modules = [
        ROOT / "schedule.py",
        *sorted((ROOT / "lib").rglob("*.py")),
        *sorted((ROOT / "generators").rglob("*.py")),
        *sorted((ROOT / "serving").rglob("*.py")),
    ]
    for path in [*modules, *sorted((ROOT / "notebooks").rglob("*.ipynb"))]:
        name = path.relative_to(ROOT).as_posix()
        if ".ipynb_checkpoints" not in path.parts:
            yield Source(_code(path), name)


def _code(path: Path) -> str:
    if path.suffix == ".py":
        return path.read_text()
    return "\n".join(cell["source"] for cell in nbformat.read(path, 4).cells if cell["cell_type"] == "code")


def test_no_sql_is_pasted_together_from_texts() -> None:
    sources = list(_sources())
    assert len(sources) > 50
    found = [f"{one.path}: {kind}: {one.lines[line - 1].strip()}" for one in sources for line, kind in one.findings()]
    assert found == []


PASTED = [
    ("f", 'f"select {columns} from sales"'),
    ("f", 'f"insert into sales ({names}) values ({values})"'),
    ("f", 'f"update {table} set price = 0"'),
    ("f", 'f"delete from {table}"'),
    ("f", 'f"with recent as (select day from {table}) select day from recent"'),
    ("f", 'f"create unlogged table staging.{name} as select 1"'),
    ("f", 'f"truncate {tables}; update heads set batch = 0"'),
    ("f", 'f"copy {table} (day, price) from stdin with (format csv)"'),
    ("f", 'f"grant select on {table} to reader"'),
    ("f", 'f"lock table {table} in share mode"'),
    ("f", 'f"set local lock_timeout = {wait}"'),
    ("f", 'f"{column} in (select day from closed_days)"'),
    ("f", 'f" from {table} join days on days.day = sales.day"'),
    ("f", 'f"{query} order by {column}"'),
    ("f", 'f"{one} union all {other}"'),
    ("f", 'f"case when {condition} then price end"'),
    ("f", "f\"({column} at time zone 'UTC')::date\""),
    ("f", 'f"{known} where day = %s"'),
    ("f", '" and ".join(f"{name} = %s" for name in names)'),
    ("f", 'f"{column} = any(%(keys)s)"'),
    ("f", '_DAYS = "select day"\nquery = f"{_DAYS} from sales {condition}"'),
    ("+", '"select day, price from " + table'),
    ("+", '"select a from " + table'),
    ("+", 'query + " where day > 3"'),
    ("+", 'def read():\n    query = "select day from sales"\n    return query + condition'),
    ("+", 'cursor.execute(query + (" for update" if lock else ""))'),
    ("+", 'sql.SQL(prefix + "limit 1")'),
    ("%", '"select day from %s" % table'),
    ("%", "cursor.execute(query % table)"),
    ("+=", 'query = "select day from sales"\nquery += condition'),
    ("+=", 'query += " group by day"'),
    ("format", '"select day from {}".format(table)'),
    ("format", '_LOST = "select day from {table}"\nload.query(_LOST.format(table=table))'),
    ("format", '"select day from {table}".strip().format(table=table)'),
    ("format_map", '"delete from {table}".format_map(names)'),
    ("replace", '"select day from TABLE".replace("TABLE", table)'),
    ("join", '" union all ".join(queries)'),
    ("join", '" ".join(["select", columns, "from", table])'),
    ("join", '"; ".join(f"delete from {table}" for table in tables)'),
    ("f", 'database.frame(connection, f"{known} limit 1")'),
    ("f", 'session.sql(f"show tables in {database}")'),
    ("f", 'F.expr(f"{column} / 2")'),
    ("SQL", "sql.SQL(condition)"),
    ("SQL", "sql.SQL(statements.LAST_DAY)"),
    ("SQL", 'query = "select 1"\ndef read(query):\n    return sql.SQL(query)'),
]
"""How it is pasted, and where."""

FINE = [
    'cursor.execute("select day from sales where price > %s", [price])',
    'cursor.execute("select day, price from sales" " where price > 3 order by day")',
    'sql.SQL("select {} from {}").format(columns, sql.Identifier(table))',
    'sql.SQL(" union all ").join(sql.SQL("select day from {}").format(name) for name in names)',
    'sql.SQL("{} {}").format(sql.SQL("select day from sales"), condition)',
    '_VALID = sql.SQL("select day from {}")\n_VALID.format(table)\nquery = _VALID + condition',
    '_LAST = "select max(day) from sales"\ndef read():\n    return sql.SQL(_LAST)',
    'sql.SQL("price" if priced else "null::numeric")',
    'cursor.execute(_LOCKED if lock else _READ, [f"{table}_full"])',
    'cursor.execute(file.read_text() + "")',
    'f"select a job from the list of {folder}"',
    'f"select at least one of {names}"',
    'f"update {table} first: its set of columns is another one"',
    'f"delete the rows from {table} by hand"',
    'f"with {count} as the largest"',
    'f"create a notebook below {folder}"',
    'f"drop what isn\'t needed from {folder}"',
    'f"copy it from {source} to {target}"',
    'f"grant {user} the right to create a database"',
    'f"lock {name} is at work already"',
    'f"{name}: this is where it is"',
    'f"taken from {folder} where nobody looks, and joined on {day}"',
    'f"{days} days, in order and by group, the case when {name} fails"',
    'f"{name} is null and not distinct"',
    '"http://[::1]:" + port',
    'logging.info("batch=%s of %s" % (batch, table))',
    '", ".join(names) + " and " + last',
    'path.replace(f"{name}.ipynb")',
    '"day = %s, %s -> %s" % days',
    "total = price % 100 + 1",
]
"""What isn't SQL, or isn't pasted."""


@pytest.mark.parametrize(("kind", "code"), PASTED)
def test_pasted_sql_is_found(kind: str, code: str) -> None:
    assert kind in [found for _, found in Source(code).findings()]


@pytest.mark.parametrize("code", FINE)
def test_what_is_no_pasted_sql_is_left_alone(code: str) -> None:
    assert Source(code).findings() == []


def test_a_notebook_is_looked_at_as_a_whole(tmp_path: Path) -> None:
    cells = [nbformat.v4.new_code_cell(text) for text in ('query = "select day from sales"', "query += condition")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "pasted.ipynb")
    assert Source(_code(tmp_path / "pasted.ipynb")).findings() == [(2, "+=")]
