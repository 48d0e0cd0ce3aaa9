"""`--help` of commands that take words: the command's own text, the options of groups, and the keys of some of them."""

from collections.abc import Sequence

from conf.compose import CONF, group_options


def print_usage(text: str, groups: Sequence[str]) -> None:
    """Print `text` (a module's docstring), then each group's options and the lines of its first YAML file.

    The lines of conf/*.yaml are the source: keys, defaults, and what they mean.
    """
    print(text.strip())
    print("\nWords are group=option or key=value. The groups here, of those in conf/:\n")
    for group in groups:
        print(f"{group}=  {' | '.join(group_options(group))}")
    for group, option in (("data", "file"), ("prompts", "data"), ("training", "full")):
        print(f"\n{group}.* (conf/{group}/{option}.yaml)\n")
        print((CONF / group / f"{option}.yaml").read_text(encoding="utf-8").rstrip())
