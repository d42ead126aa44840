"""A command that refuses a repeated option instead of taking the last one."""

from __future__ import annotations

from collections import Counter
from typing import Any

import typer
from typer.core import TyperCommand, TyperOption


class Command(TyperCommand):
    """Typer's command; an option that takes one value is given once."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words of the command line, in which Typer itself lets the last value win."""
        if ctx.resilient_parsing:  # completing a line that is not finished
            return super().parse_args(ctx, args)
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        for option, times in Counter(order).items():
            if times > 1 and isinstance(option, TyperOption) and not option.multiple and not option.count:
                raise typer.BadParameter(f"found {times} times; expected once.", ctx=ctx, param=option)
        return super().parse_args(ctx, args)
