"""`weightsync completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

# Where the script goes so that a new shell has it.
_PLACES = {
    "bash": 'Add to ~/.bashrc:  eval "$(weightsync completion bash)"   (bash 4.4 or newer)',
    "zsh": 'Add to ~/.zshrc, after compinit:  eval "$(weightsync completion zsh)"',
    "fish": "Run once:  weightsync completion fish > ~/.config/fish/completions/weightsync.fish",
}


@click.command()
@click.argument("shell", type=click.Choice(list(_PLACES)))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that completes commands, options and file names in SHELL."""
    root = ctx.find_root()
    name = str(root.info_name)
    kind = get_completion_class(shell)
    assert kind is not None
    variable = f"_{name.replace('-', '_').upper()}_COMPLETE"
    click.echo(kind(root.command, {}, name, variable).source().strip())
    click.echo(f"# {_PLACES[shell]}")  # last: zsh wants #compdef in the first line
