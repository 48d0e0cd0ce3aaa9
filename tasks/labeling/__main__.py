"""python -m tasks.labeling <spec.yaml>: run, or repeat by hand, one label stage."""

from tasks.command import main
from tasks.labeling.settings import LabelSpec
from tasks.labeling.stage import run

if __name__ == "__main__":
    main(LabelSpec, run)
