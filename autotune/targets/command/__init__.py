"""The target ``command``: any training command, whose steps are reported by itself.

target    settings, and the checks that need no process
template  placeholders of parameters in the command's words
output    reports out of what a command prints, by a regular expression
counter   steps done, out of the step numbers in it
sources   the files in which it reads its parameters, as far as its words tell
reports   reports out of the lines on AUTOTUNE_EVENTS; all ranks as one series
process   the command's processes: started, watched, ended
loader    the steps of a running command as batches
"""

from autotune.targets.command.target import CommandTarget

__all__ = ["CommandTarget"]
