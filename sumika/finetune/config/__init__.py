"""A training job as one YAML: what it learns from, on which base, how, and what it must reach to be served."""

from sumika.finetune.config.evaluate import Evaluate, Suite
from sumika.finetune.config.job import Base, Chat, Job, Method
from sumika.finetune.config.root import JobConfig, load, read, read_names
from sumika.finetune.config.serve import Gate, Serve
from sumika.finetune.config.track import Track
from sumika.finetune.config.train import Checkpoint, Lora, StopEarly, Train

__all__ = [
    "Base", "Chat", "Checkpoint", "Evaluate", "Gate", "Job", "JobConfig", "Lora", "Method", "Serve", "StopEarly", "Suite", "Track",
    "Train", "load", "read", "read_names",
]  # fmt: skip
