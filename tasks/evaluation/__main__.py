"""`python -m tasks.evaluation spec.yaml`: repeat one evaluation by hand."""

from tasks.command import main
from tasks.evaluation.settings import EvaluateSpec
from tasks.evaluation.stage import run

if __name__ == "__main__":
    main(EvaluateSpec, run)
