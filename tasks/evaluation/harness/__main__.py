"""`python -m tasks.evaluation.harness spec.yaml`: run lm-eval's tasks by hand."""

from tasks.command import main
from tasks.evaluation.harness.settings import HarnessSpec
from tasks.evaluation.harness.stage import run

if __name__ == "__main__":
    main(HarnessSpec, run)
