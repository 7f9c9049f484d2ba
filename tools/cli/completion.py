"""onnx-compress completion bash|zsh|fish

No library of completions for argparse knows a command that takes files as well as commands.
"""

import argparse
from collections.abc import Sequence

from onnx_compress.cli import compress
from onnx_compress.cli.commands import COMMANDS
from onnx_compress.cli.parsing import Parser
from onnx_compress.passes import registry
from onnx_compress.passes import target as targets

_BASH = """\
# onnx-compress completion bash >> ~/.bash_completion
_onnx_compress() {{
    local current=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}}
    local command=${{COMP_WORDS[1]}} words=""
    case $before in
{choices}
    esac
    if [[ -n $words ]]; then
        COMPREPLY=($(compgen -W "$words" -- "$current"))
        return
    fi
    case $command in
{commands}
        *) words="{options}" ;;
    esac
    if [[ $current == -* ]]; then
        COMPREPLY=($(compgen -W "$words" -- "$current"))
        return
    fi
    mapfile -t COMPREPLY < <(compgen -f -- "$current")
    [[ $command == passes ]] && COMPREPLY=($(compgen -W "{passes}" -- "$current"))
    [[ $command == completion ]] && COMPREPLY=($(compgen -W "bash zsh fish" -- "$current"))
    (( COMP_CWORD == 1 )) && COMPREPLY+=($(compgen -W "{names}" -- "$current"))
}}
complete -o filenames -F _onnx_compress onnx-compress
"""
_ZSH = """\
# in ~/.zshrc: source <(onnx-compress completion zsh)
autoload -U +X bashcompinit && bashcompinit
"""


def parser() -> Parser:
    """The options."""
    out = Parser("onnx-compress completion", "Print completion of onnx-compress for a shell.")
    out.add_argument("shell", choices=("bash", "zsh", "fish"))
    return out


def run(arguments: Sequence[str]) -> int:
    """Do it; gives the exit code."""
    shell = parser().parse_args(arguments).shell
    text = {"bash": _bash, "zsh": lambda: _ZSH + _bash(), "fish": _fish}[shell]()
    print(text, end="")  # noqa: T201
    return 0


def _bash() -> str:
    return _BASH.format(
        choices="\n".join(f'        {o}) words="{" ".join(w)}" ;;' for o, w in _words().items()),
        commands="\n".join(
            f'        {name}) words="{" ".join(_flags(entry.load().parser()))}" ;;'
            for name, entry in COMMANDS.items()
        ),
        options=" ".join(_flags(compress.parser())),
        passes=" ".join(registry.names()),
        names=" ".join(COMMANDS),
    )


def _fish() -> str:
    lines = ["# onnx-compress completion fish > ~/.config/fish/completions/onnx-compress.fish"]
    known = " ".join(COMMANDS)
    lines += [
        f"complete -c onnx-compress -n 'test (count (commandline -opc)) -eq 1' -a {name} "
        f"-d '{_quoted(entry.help)}'"
        for name, entry in COMMANDS.items()
    ]
    parsers = {name: entry.load().parser() for name, entry in COMMANDS.items()}
    for name, found in ("", compress.parser()), *parsers.items():
        seen = f"__fish_seen_subcommand_from {name or known}"
        where = f"complete -c onnx-compress -n '{seen if name else 'not ' + seen}'"
        for action in _options(found):
            words = _words().get(action.option_strings[-1], [])
            extra = f" -xa '{' '.join(words)}'" if words else (" -r" if action.nargs != 0 else "")
            flag = action.option_strings[-1].lstrip("-")
            lines.append(f"{where} -l {flag}{extra} -d '{_quoted(action.help or '')}'")
    lines.append(
        "complete -c onnx-compress -n '__fish_seen_subcommand_from passes' "
        f"-fa '{' '.join(registry.names())}'"
    )
    lines.append(
        "complete -c onnx-compress -n '__fish_seen_subcommand_from completion' -fa 'bash zsh fish'"
    )
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return text.partition(";")[0].replace("%(default)s", "").replace("'", "")


def _words() -> dict[str, list[str]]:
    """What options take, where that can be listed; files are completed for the rest."""
    return {"--passes": registry.names(), "--target": targets.names()}


def _flags(found: argparse.ArgumentParser) -> list[str]:
    return [action.option_strings[-1] for action in _options(found)]


def _options(found: argparse.ArgumentParser) -> list[argparse.Action]:
    return [action for action in found._actions if action.option_strings]
