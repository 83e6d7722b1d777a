"""The training methods, and groups of commands with one for each of them."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

from fmicl_cli.images import IMAGES
from fmicl_cli.texts import TEXTS
from fmicl_core.checks import check_name

KINDS = (IMAGES, TEXTS)
#: The kind of the runs of each method.
KIND_OF = {method: kind for kind in KINDS for method in kind.methods}


class MethodGroup(TyperGroup):
    """A group with a command for each method; options may also stand before the method."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the method first; the commands of all methods know the same options."""
        parser = next(iter(self.commands.values())).make_parser(ctx)
        _, rest, _ = parser.parse_args(list(args))  # from the first word on that is no option
        if rest:
            args = [rest[0], *args[: len(args) - len(rest)], *rest[1:]]
        elif args:
            args = [word for word in args if word in ("--help", "--list-presets")]
            if not args:
                check_name("method", None, self.commands)
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Take names with "-" and with "_"."""
        return super().resolve_command(
            ctx, [check_name("method", args[0], self.commands), *args[1:]]
        )
