"""A command that refuses empty values and repeated options."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperOption


class Command(TyperCommand):
    """A Typer command that refuses empty values, and options given twice unless they take several values."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command line; Typer itself would use the last value of a repeated option."""
        args = list(self._with_bare_values(ctx, args))
        if ctx.resilient_parsing:  # shell completion of an unfinished line
            return super().parse_args(ctx, args)
        given, _, order = self.make_parser(ctx).parse_args(args=list(args))
        param: Any
        for param in self.get_params(ctx):
            value = given.get(param.name or "")
            # An empty path would mean the working folder.
            if value == "" or (isinstance(value, (list, tuple)) and "" in value):
                raise typer.BadParameter("found an empty value; expected a value.", ctx=ctx, param=param)
        for option, times in Counter(order).items():
            if times > 1 and isinstance(option, TyperOption) and not option.multiple and not option.count:
                raise typer.BadParameter(f"found {times} times; expected once.", ctx=ctx, param=option)
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help with `--[no-]NAME` for a flag, instead of a column of `--no-NAME` that narrows all others.

        Square brackets of the texts are escaped: Rich would read those of 'xrayfast[timm]' as markup.
        """
        from rich.markup import escape  # slow to import, and needed only for --help

        shown = copy(self)
        shown.help = escape(self.help or "")
        shown.params = [copy(param) for param in self.params]
        for param in shown.params:
            param.help = escape(getattr(param, "help", None) or "")  # type: ignore[attr-defined]
            if param.secondary_opts == [f"--no-{name[2:]}" for name in param.opts]:
                param.opts, param.secondary_opts = [f"--[no-]{name[2:]}" for name in param.opts], []
        super(Command, shown).format_help(ctx, formatter)

    def _with_bare_values(self, ctx: Any, args: Sequence[str]) -> Iterator[str]:
        """Yield the words of the command line, adding the value that an option such as --ema has if none follows it."""
        from xrayfast.cli.options import FIELDS, as_number  # already imported by the command

        params = [param for param in self.get_params(ctx) if param.name in FIELDS]
        fields = {flag: FIELDS[param.name] for param in params for flag in param.opts}
        shows: Any = {flag: field.json_schema_extra for flag, field in fields.items()}
        for word, following in zip(args, [*args[1:], "--"], strict=False):
            yield word
            if "bare" in shows.get(word, ()) and following and isinstance(as_number(following), str):
                if not (following.startswith("-") or Path(following).exists()):
                    bounds = {type(bound).__name__: bound for bound in fields[word].metadata}
                    raise typer.BadParameter(
                        f"found '{following}', which is neither a number nor a file or folder that exists; expected "
                        f"a number above {bounds['Gt'].gt} and below {bounds['Lt'].lt}, or no value.",
                        ctx=ctx,
                        param_hint=word,
                    )
                yield str(shows[word]["bare"])
