"""The uses of `tensorrt_llm` and `tensorrt` in a source file, found by reading it.

Types are followed as far as plain code goes: imports, calls of classes and functions whose row says what they return,
annotated parameters, attributes of `self`, loops over lists, `with`, and classes that derive from the vendor's.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass

from tests.engines.trtllm.call_values import Instance, Items, Named, Own, OwnClass, OwnFunction, element_of, typed
from tests.engines.trtllm.signature_table import ROOTS, SignatureTable, signature


@dataclass(frozen=True)
class Use:
    """A mention or call of a vendor's name; `problem` says what is wrong with it."""

    line: int
    name: str
    called: bool
    problem: str | None


def uses(source: str, table: SignatureTable) -> list[Use]:
    """Every use of the vendor's names in Python source, in order."""
    reader = _Reader(table)
    reader.visit(ast.parse(source))
    return reader.found


class _Reader(ast.NodeVisitor):
    def __init__(self, table: SignatureTable) -> None:
        self.table, self.found = table, []
        self.scopes: list[dict[str, object]] = [{}]
        self.classes: list[OwnClass] = []

    # Statements

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            if _is_vendor(alias.name):
                self._use(node, alias.name)
                name = alias.name if alias.asname else alias.name.partition(".")[0]
                self.scopes[-1][alias.asname or name] = Named(name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for alias in node.names:
            if not node.level and _is_vendor(node.module or ""):
                name = f"{node.module}.{alias.name}"
                self._use(node, name)
                self.scopes[-1][alias.asname or alias.name] = Named(self.table.aliases.get(name, name))
            else:
                self.scopes[-1][alias.asname or alias.name] = None

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        bases = [self.value(base) for base in node.bases]
        for keyword in node.keywords:
            self.value(keyword.value)
        own = OwnClass(node.name, [base.name for base in bases if isinstance(base, Named)],
                       [base for base in bases if isinstance(base, OwnClass)])
        self.scopes[-1][node.name] = own
        self.classes.append(own)
        for statement in node.body:
            if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
                own.attributes[statement.name] = self._returns(statement)
                self._check_override(own, statement)
        # Constructors first: they say what the attributes are.
        for statement in sorted(node.body, key=lambda item: getattr(item, "name", "") != "__init__"):
            self.visit(statement)
        self.classes.pop()

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for expression in (*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults)):
            self.value(expression)
        scope: dict[str, object] = {}
        parameters = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        for parameter in (*parameters, *filter(None, (node.args.vararg, node.args.kwarg))):
            scope[parameter.arg] = self._annotated(parameter.annotation)
        in_class = bool(self.classes) and self.classes[-1].attributes.get(node.name) is not None and \
            self.scopes[-1].get(node.name) is None
        if in_class and parameters:
            scope[parameters[0].arg] = Own(self.classes[-1])
        else:
            self.scopes[-1][node.name] = self._returns(node)
        self.scopes.append(scope)
        outer, self.classes = self.classes, self.classes if in_class else []
        for statement in node.body:
            self.visit(statement)
        self.classes = outer
        self.scopes.pop()

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Assign(self, node: ast.Assign) -> None:
        value = self.value(node.value)
        for target in node.targets:
            self._assign(target, value)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        value = self.value(node.value) if node.value else None
        self._assign(node.target, self._annotated(node.annotation) or value)

    def visit_For(self, node: ast.For) -> None:
        self._assign(node.target, element_of(self.value(node.iter)))
        for statement in (*node.body, *node.orelse):
            self.visit(statement)

    def visit_With(self, node: ast.With) -> None:
        for item in node.items:
            value = self.value(item.context_expr)
            if item.optional_vars:
                self._assign(item.optional_vars, value)
        for statement in node.body:
            self.visit(statement)

    def generic_visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.expr):
            self.value(node)
        else:
            super().generic_visit(node)

    # Expressions

    def value(self, node: ast.expr) -> object:
        """Read an expression once, noting the uses in it; what is known of its value, or None."""
        if isinstance(node, ast.Name):
            found = self._name(node.id)
            if isinstance(found, Named) and "." in found.name:
                self._use(node, found.name)
            return found
        if isinstance(node, ast.Attribute):
            return self._attribute(node)
        if isinstance(node, ast.Call):
            return self._call(node)
        if isinstance(node, ast.NamedExpr):
            value = self.value(node.value)
            self._assign(node.target, value)
            return value
        if isinstance(node, ast.Subscript):
            self.value(node.slice)
            return element_of(self.value(node.value))
        if isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp):
            return self._comprehension(node)
        if isinstance(node, ast.Lambda):
            self.scopes.append({argument.arg: None for argument in node.args.args})
            self.value(node.body)
            self.scopes.pop()
            return None
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.expr):
                self.value(child)
        return None

    def _name(self, name: str) -> object:
        return next((scope[name] for scope in reversed(self.scopes) if name in scope), None)

    def _attribute(self, node: ast.Attribute, call: ast.Call | None = None) -> object:
        owner = self.value(node.value) if not isinstance(node.value, ast.Name) else self._name(node.value.id)
        if isinstance(owner, Own):
            return self._own_attribute(node, owner, call)
        if not isinstance(owner, Named | Instance):
            return None
        return self._vendor(node, f"{owner.name}.{node.attr}", call)

    def _own_attribute(self, node: ast.Attribute, owner: Own, call: ast.Call | None) -> object:
        if not owner.is_super:
            known, value = owner.of.lookup(node.attr)
            if known:
                return value.returns if call and isinstance(value, OwnFunction) else value
        vendor = owner.of.all_vendor()
        names = [f"{base}.{node.attr}" for base in vendor]
        found = next((name for name in names if self.table.find(name)), names[0] if names else None)
        return self._vendor(node, found, call) if found else None

    def _vendor(self, node: ast.expr, name: str, call: ast.Call | None) -> object:
        """A use of the vendor's `name`: what it is, or what the call gives."""
        if isinstance(node.ctx, ast.Store):
            call = None
        self._use(node, name, call)
        row = self.table.find(name)
        if row is None:
            return None
        if call is not None:
            return typed(row.returns) if row.returns else Instance(row.name) if _is_class(row.name) else None
        if row.type is not None:
            return typed(row.type)
        return Named(row.name)

    def _call(self, node: ast.Call) -> object:
        for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
            self.value(argument.value if isinstance(argument, ast.Starred) else argument)
        function = node.func
        if isinstance(function, ast.Name) and function.id == "super" and self.classes:
            return Own(self.classes[-1], is_super=True)
        if isinstance(function, ast.Attribute):
            if function.attr == "import_module" and node.args and isinstance(node.args[0], ast.Constant):
                return self._import(node)
            return self._attribute(function, node)
        called = self._name(function.id) if isinstance(function, ast.Name) else self.value(function)
        if isinstance(called, OwnClass):
            return Own(called)
        if isinstance(called, OwnFunction):
            return called.returns
        if isinstance(called, Named):
            return self._vendor(function, called.name, node)
        if isinstance(called, Instance):
            return self._vendor(function, f"{called.name}.__call__", node)
        return None

    def _import(self, node: ast.Call) -> object:
        name = node.args[0].value
        if not _is_vendor(name):
            return None
        self._use(node, name)
        return Named(name)

    def _comprehension(self, node: ast.expr) -> object:
        self.scopes.append({})
        for generator in node.generators:
            self._assign(generator.target, element_of(self.value(generator.iter)))
            for condition in generator.ifs:
                self.value(condition)
        parts = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
        values = [self.value(part) for part in parts]
        self.scopes.pop()
        return Items(values[0].name) if isinstance(values[0], Instance) else None

    # What is known

    def _assign(self, target: ast.expr, value: object) -> None:
        if isinstance(target, ast.Name):
            self.scopes[-1][target.id] = value
        elif isinstance(target, ast.Tuple | ast.List):
            for part in target.elts:
                self._assign(part, None)
        elif isinstance(target, ast.Attribute):
            owner = self.value(target.value)
            if isinstance(owner, Own):
                owner.of.attributes.setdefault(target.attr, value)
            elif isinstance(owner, Instance):
                self._use(target, f"{owner.name}.{target.attr}")
        else:
            self.value(target)

    def _annotated(self, annotation: ast.expr | None) -> object:
        """What an annotation says a value is: `X`, `X | None`, `list[X]`; "X" in quotes too."""
        if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
            annotation = ast.parse(annotation.value, mode="eval").body
        if isinstance(annotation, ast.BinOp):
            return self._annotated(annotation.left)
        if isinstance(annotation, ast.Subscript):
            inner = annotation.slice.elts[0] if isinstance(annotation.slice, ast.Tuple) else annotation.slice
            value = self._annotated(inner)
            return Items(value.name) if isinstance(value, Instance) else None
        if not isinstance(annotation, ast.Name | ast.Attribute):
            return None
        value = self.value(annotation)
        return Instance(value.name) if isinstance(value, Named) else Own(value) if isinstance(value, OwnClass) else None

    def _returns(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> OwnFunction:
        return OwnFunction(self._annotated(node.returns))

    def _check_override(self, own: OwnClass, node: ast.FunctionDef) -> None:
        """A method that takes the place of the vendor's is called with the vendor's arguments."""
        row = next((row for base in own.all_vendor() if (row := self.table.find(f"{base}.{node.name}"))), None)
        if row is None or row.call is None or node.name == "__init__":
            return
        ours = signature("(" + ast.unparse(node.args) + ")")
        ours = ours.replace(parameters=list(ours.parameters.values())[1:])
        theirs = [parameter.name for parameter in signature(row.call).parameters.values()
                  if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)]
        try:
            ours.bind(**dict.fromkeys(theirs))
        except TypeError as error:
            problem = f"{own.name}.{node.name} takes the place of {row.name}{row.call}, but does not fit: {error}"
            self.found.append(Use(node.lineno, row.name, True, problem))

    def _use(self, node: ast.AST, name: str, call: ast.Call | None = None) -> None:
        starred = call is not None and (any(isinstance(argument, ast.Starred) for argument in call.args)
                                        or any(keyword.arg is None for keyword in call.keywords))
        problem = self.table.problem(
            name, sum(not isinstance(argument, ast.Starred) for argument in call.args) if call else 0,
            tuple(keyword.arg for keyword in call.keywords if keyword.arg) if call else (), open_ended=starred,
            called=call is not None)
        self.found.append(Use(node.lineno, name, call is not None, problem))


def _is_vendor(name: str) -> bool:
    return name.partition(".")[0] in ROOTS


def _is_class(name: str) -> bool:
    return name.rpartition(".")[2][:1].isupper()
