"""A command that refuses an option without a value, and a repeated one instead of taking the last."""

from __future__ import annotations

from collections import Counter
from typing import Any

import typer
from typer.core import TyperCommand, TyperOption


class Command(TyperCommand):
    """Typer's command; an option that takes one value is given once, and nothing is given as ""."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words of the command line, in which Typer itself lets the last value win."""
        if ctx.resilient_parsing:  # completing a line that is not finished
            return super().parse_args(ctx, args)
        given, _, order = self.make_parser(ctx).parse_args(args=list(args))
        param: Any
        for param in self.get_params(ctx):
            value = given.get(param.name or "")
            # An empty path would be the working folder.
            if value == "" or (isinstance(value, (list, tuple)) and "" in value):
                raise typer.BadParameter("found an empty text; expected a value.", ctx=ctx, param=param)
        for option, times in Counter(order).items():
            if times > 1 and isinstance(option, TyperOption) and not option.multiple and not option.count:
                raise typer.BadParameter(f"found {times} times; expected once.", ctx=ctx, param=option)
        return super().parse_args(ctx, args)
