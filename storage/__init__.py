"""The data between stages: Arrow schemas, the run folder's layout, and manifests that prove a stage is finished."""
