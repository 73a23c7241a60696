"""PFFDST: federated dynamic sparse training with parameter freezing, measured in real bytes."""

__version__ = "0.1.0"
