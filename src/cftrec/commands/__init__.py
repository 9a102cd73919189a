"""What each command of the command line does: its options, a call, and what it prints.

What is slow to import is imported where a command runs.
"""

from cftrec.commands.evaluate import Baseline, Compare, Evaluate
from cftrec.commands.log import Data, Prepare, World
from cftrec.commands.recommend import Add, Explain, Recommend
from cftrec.commands.serve import Demo, Export, Serve
from cftrec.commands.train import Sweep, Train

__all__ = [
    "Add",
    "Baseline",
    "Compare",
    "Data",
    "Demo",
    "Evaluate",
    "Explain",
    "Export",
    "Prepare",
    "Recommend",
    "Serve",
    "Sweep",
    "Train",
    "World",
]
