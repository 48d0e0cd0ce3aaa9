"""`python -m tasks.generation spec.yaml`: repeat one generate stage by hand."""

from tasks.command import main
from tasks.generation.settings import GenerateSpec
from tasks.generation.stage import run

if __name__ == "__main__":
    main(GenerateSpec, run)
