"""Sumika (住処): a home for a company's own language models."""

__version__ = "0.1.0"
