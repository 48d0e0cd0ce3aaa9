"""The configuration: YAML by group, composed by Hydra, validated by pydantic."""
