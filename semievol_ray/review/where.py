"""A condition on rows, as people write one: `selected and agreement < 0.5`.

Python's syntax, of which only comparisons are taken: nothing is looked up and nothing is called.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Collection
from difflib import get_close_matches
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from semievol_ray.errors import UserError

_COMPARED: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: lambda a, b: a < b,
    ast.LtE: lambda a, b: a <= b,
    ast.Gt: lambda a, b: a > b,
    ast.GtE: lambda a, b: a >= b,
    ast.Eq: lambda a, b: a == b,
    ast.NotEq: lambda a, b: a != b,
}


class Condition:
    """Comparisons of columns and constants, joined by `and`, `or` and `not`.

    Also `x in ('a', 'b')`, `'part' in question`, `x is None` and `x is not None`. Where a value is
    null a comparison is not met. Raises UserError for anything else.
    """

    def __init__(self, text: str, columns: Collection[str]) -> None:
        self._text, self._columns = text, columns
        try:
            tree = ast.parse(text.strip(), mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise self._refused(getattr(error, "msg", None) or str(error)) from None
        try:
            self._expression = self._read(tree.body)
        except RecursionError:
            raise self._refused("too deep") from None
        if not isinstance(self._expression, pc.Expression):
            raise self._refused("compares nothing")

    def rows(self, table: pa.Table) -> pa.Table:
        """Those that meet it."""
        try:
            return table.filter(self._expression)
        except pa.ArrowException as error:
            raise self._refused(str(error).splitlines()[0]) from None

    def _refused(self, why: str) -> UserError:
        return UserError(f"--where {self._text!r}: {why}")

    def _read(self, node: ast.expr) -> Any:
        match node:
            case ast.BoolOp(op=op, values=values):
                found = self._truth(values[0])
                for value in values[1:]:
                    other = self._truth(value)
                    found = found & other if isinstance(op, ast.And) else found | other
                return found
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return ~self._truth(operand)
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
                return -value
            case ast.Compare(left=left, ops=ops, comparators=others):
                sides = [left, *others]
                parts = [self._compare(sides[i], op, sides[i + 1]) for i, op in enumerate(ops)]
                found = parts[0]
                for part in parts[1:]:
                    found = found & part
                return found
            case ast.Name(id=name):
                return self._column(name)
            case ast.Constant(value=str() | int() | float() | None as value):
                return value
            case ast.Tuple(elts=parts) | ast.List(elts=parts) | ast.Set(elts=parts):
                return [self._read(part) for part in parts]
        raise self._refused(f"{ast.unparse(node)} is no comparison")

    def _truth(self, node: ast.expr) -> Any:
        found = self._read(node)
        if not isinstance(found, pc.Expression):
            raise self._refused(f"{ast.unparse(node)} is neither true nor false")
        return found

    def _compare(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> Any:
        a, b = self._read(left), self._read(right)
        if not isinstance(a, pc.Expression) and not isinstance(b, pc.Expression):
            raise self._refused("compares no column")
        if isinstance(op, ast.In | ast.NotIn):
            met = self._among(a, b)
            return ~met if isinstance(op, ast.NotIn) else met
        if isinstance(op, ast.Is | ast.IsNot):
            if b is not None or not isinstance(a, pc.Expression):
                raise self._refused("`is` asks for None")
            return a.is_null() if isinstance(op, ast.Is) else a.is_valid()
        if a is None or b is None:
            raise self._refused("nothing equals None: write `is None`")
        if isinstance(a, list) or isinstance(b, list):
            raise self._refused("a list is asked with `in`")
        try:
            return _COMPARED[type(op)](a, b)
        except (pa.ArrowException, OverflowError) as error:
            raise self._refused(str(error).splitlines()[0]) from None

    def _among(self, a: Any, b: Any) -> Any:
        if isinstance(a, str) and isinstance(b, pc.Expression):
            return pc.match_substring(b, pattern=a)
        if isinstance(b, list) and isinstance(a, pc.Expression):
            try:
                return a.isin(b)
            except (pa.ArrowException, OverflowError) as error:
                raise self._refused(str(error).splitlines()[0]) from None
        raise self._refused("`in` takes 'text' in column, or column in ('a', 'b')")

    def _column(self, name: str) -> Any:
        if name in self._columns:
            return pc.field(name)
        near = get_close_matches(name, self._columns, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(self._columns)}"
        raise self._refused(f"no column {name!r}; {hint}")
