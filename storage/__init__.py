"""What passes between the stages: Arrow schemas, the run folder's layout, and manifests that prove a stage is done."""
